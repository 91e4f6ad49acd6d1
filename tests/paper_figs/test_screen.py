"""Effects, words and panels of the screen study, on a made-up table with known ones (see made_up_studies.py)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import stats

from core.errors import InputError
from paper_figs import fig13_screen as fig13
from paper_figs import screen


def _effects(results, **options):
    results.add_screen(["factorial"], **options)
    return screen.effects(results.read_screen())


def _claim(results, **options):
    results.add_screen(["factorial"], **options)
    return fig13.claim(fig13.measure(results.read_screen()))


def test_gaps_are_those_of_base_models_averaged_over_finetuning_seeds(results):
    results.add_screen()
    gaps = results.read_screen().gaps("factorial", "lm")
    assert len(gaps) == 16 * 2
    expected = 0.1 + 0.04 * np.sign(2 - gaps.about["tail"]) + 0.025 * np.sign(50 - gaps.about["answers"])
    np.testing.assert_allclose(gaps.value["accuracy"], expected + 0.01 * (gaps.about["pretrain_seed"] - 0.5))
    toy = results.read_screen().gaps("factorial", "toy")
    assert len(toy) == 32 and np.isnan(toy.value["retention"]).all() and np.isnan(toy.about["learning_rate"]).all()


def test_effects_are_those_that_made_the_gaps_and_the_deep_tail_is_the_high_level(results):
    effects = _effects(results)
    np.testing.assert_allclose(effects.effect["accuracy"].mean, [0.08, 0, -0.05, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(effects.effect["retention"].mean, [0.16, 0, -0.1, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(effects.effect["subject_attention"].mean, [0.04, 0, -0.025, 0, 0, 0, 0], atol=1e-12)
    assert float(effects.mean["accuracy"].mean) == pytest.approx(0.1)
    assert (effects.low[0], effects.high[0], effects.strongest) == (8.0, 0.5, 0)
    assert (effects.low[1:] < effects.high[1:]).all()


def test_intervals_are_students_over_base_models(results):
    # 32 residuals of ±0.005 and 8 coefficients; in a balanced design an effect's error is 2 s / √32.
    effect = _effects(results).effect["accuracy"]
    half = stats.t.ppf(0.975, 24) * np.sqrt(32 * 0.005**2 / 24) * 2 / np.sqrt(32)
    np.testing.assert_allclose(effect.high - effect.mean, half)


def test_claim_names_clear_factors_from_the_strongest_and_whether_the_toy_agrees(results):
    half = 100 * stats.t.ppf(0.975, 24) * np.sqrt(32 * 0.005**2 / 24) * 2 / np.sqrt(32)
    assert _claim(results) == (
        "2 of 7 properties of a world clearly change what lesser-known facts cost a language model: "
        f"deep tail +8.0 ± {half:.1f}, many answers −5.0 ± {half:.1f} points of accuracy; "
        "the toy ranks the worlds alike (rank correlation +1.00)"
    )


def test_claim_names_no_more_than_the_three_strongest_of_many_clear_factors(results):
    claim = _claim(results, true={"tail": 0.08, "answers": -0.05, "names": 0.04, "format": 0.02}, with_toy=False)
    assert claim.startswith("4 of 7 properties of a world clearly change") and "questions seen" not in claim
    assert ": most deep tail +8.0 ± 0.4, many answers −5.0 ± 0.4, distinctive names +4.0 ± 0.4 points" in claim


def test_claim_says_when_nothing_is_clear_and_is_silent_about_a_toy_that_was_not_run(results):
    claim = _claim(results, true={"format": 0.001}, with_toy=False)
    assert claim == (
        "None of 7 properties of a world clearly changes what lesser-known facts cost a language model; "
        "at most questions seen, +0.1 ± 0.4 points of accuracy"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda gap, at: -gap, "the toy ranks the worlds the other way round (rank correlation −1.00)"),
        (lambda gap, at: np.sin(at * 2.4), "the toy does not clearly rank the worlds alike (rank correlation"),
    ],
)
def test_claim_says_when_the_toy_ranks_worlds_otherwise(results, change, words):
    path = results.add_screen(["factorial"])
    table = pq.read_table(path)
    rows, worlds = table.to_pylist(), sorted(set(table["world"].to_pylist()))
    for row in rows:
        if row["flow"] == "toy" and row["arm"] == "top":
            row["accuracy"] = 0.4 + change(row["accuracy"] - 0.4, worlds.index(row["world"]))
        elif row["flow"] == "toy":
            row["accuracy"] = 0.4
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert words in fig13.claim(fig13.measure(results.read_screen()))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda table: table.filter(pc.field("arm") != "bottom"), "lacks an arm of some base model"),
        (lambda table: table.filter(pc.field("tail") == 8), "tail has not two levels in the factorial part"),
        (lambda table: table.filter(pc.field("pretrain_seed") == 0).slice(0, 64), "has (too few|not two)"),
        (lambda table: table.drop_columns(["retention"]), "it has no column retention"),
    ],
)
def test_table_that_is_not_finished_is_named(results, keep, message):
    path = results.add_screen(["factorial"], with_toy=False)
    pq.write_table(keep(pq.read_table(path)), path)
    with pytest.raises(InputError, match=message):
        fig13.measure(results.read_screen())


def test_levels_of_a_varied_factor_stand_in_order_with_the_toy_beside(results):
    results.add_screen()
    found = fig13.measure(results.read_screen())
    assert list(found.fine) == ["answers", "background", "tail"]
    model, toy = found.fine["tail"]
    assert screen.varied(model, "tail") == "tail" and len(toy) == len(model) == 5 * 2
    spread = screen.spread(model.value["accuracy"], model.about["tail"])
    np.testing.assert_allclose(spread.mean, [0.165, 0.125, 0.125, 0.125, 0.085])
    np.testing.assert_allclose(spread.high - spread.low, 0.01)
    _, figure = fig13.draw({"screen": results.read_screen()})
    panel = next(axis for axis in figure.axes if axis.get_xlabel() == fig13.SIDES["tail"])
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.5", "1", "2", "4", "8"]


def test_recipes_have_a_line_for_each_method_and_number_of_epochs_in_each_world(results):
    results.add_screen()
    _, figure = fig13.draw({"screen": results.read_screen()})
    panels = [axis for axis in figure.axes if axis.get_xlabel() == "learning rate"]
    assert len(panels) == 2
    legend = panels[-1].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["every weight, 3 epochs", "every weight, 6 epochs", "adapter, 6 epochs"]


@pytest.mark.parametrize(
    ("parts", "with_toy", "n_panels"), [(["factorial"], False, 2), (["factorial", "fine"], True, 6)]
)
def test_panels_without_rows_are_left_out(results, parts, with_toy, n_panels):
    results.add_screen(parts, with_toy=with_toy)
    claim, figure = fig13.draw({"screen": results.read_screen()})
    figure.draw_without_rendering()
    assert len(figure.axes) == n_panels and figure.get_suptitle().replace("\n", " ") == claim


def test_one_base_model_a_world_is_enough(results):
    results.add_screen(n_models=1)
    fig13.draw({"screen": results.read_screen()})[1].draw_without_rendering()
