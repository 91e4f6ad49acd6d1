"""Words and numbers of the figures of a language model's studies, on made-up ones in which they are known.

Of a study with gap g, top lies g above bottom in accuracy and attention, 2 g in retention (see made_up_studies.py).
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core import columns
from core.errors import InputError
from paper_figs import fig11_language_model as fig11
from paper_figs import fig12_attention_heads as fig12


def _flows(results, gaps=(0.1, 0.1, 0.1), name="tiny"):
    for world, gap in enumerate(gaps):
        results.add_study(name, world, gap=gap)
    return {name: fig11.measure(found) for name, found in results.read_studies().items()}


def _heads(results, gaps=(0.1, 0.1, 0.1)):
    _flows(results, gaps)
    return fig12.measure(results.read_studies()["tiny"])


def test_language_model_is_said_to_do_as_the_toy_where_all_signs_agree(results):
    # Gaps of 10, 11 and 12 points: half-width 4.303 · 1 / √3.
    results.add_worlds()
    flows = _flows(results, (0.10, 0.11, 0.12))
    assert fig11.claim(flows) == (
        "In a small language model as in the toy, finetuning on lesser-known rather than well-known facts costs "
        "11.0 ± 2.5 points of held-out accuracy and 0.110 ± 0.025 of subject attention; on facts that the base model "
        "recalls, top − bottom is +22.0 ± 5.0 points"
    )


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ((-0.1, -0.1, -0.1), "adds 10.0 ± 0.0 points to held-out accuracy and 0.100 ± 0.000 to subject attention"),
        ((0.1, -0.1, 0.0), "does not clearly change held-out accuracy (0.0 ± 24.8 points) and subject attention"),
        ((0.1,), "changes held-out accuracy by −10.0 points in one world"),
    ],
)
def test_toy_is_told_apart_where_the_language_model_does_otherwise(results, gaps, words):
    results.add_worlds()
    claim = fig11.claim(_flows(results, gaps))
    assert claim.startswith("In a small language model, finetuning on") and words in claim and "as in" not in claim
    assert "; in the toy it costs 21.7 ± 7.2 points of held-out accuracy and 0.217 ± 0.072 of subject" in claim


def test_accuracy_is_split_and_the_gap_told_by_fifth_as_it_was_compared(results):
    results.add_worlds()
    model = _flows(results)["tiny"]
    np.testing.assert_allclose([model.split["retention"][arm].mean for arm in ("top", "bottom")], [60, 40])
    np.testing.assert_allclose([model.split["unknown_accuracy"][arm].mean for arm in ("top", "bottom")], [7.5, 12.5])
    assert model.fifths is not None and model.unit == "base models"
    np.testing.assert_allclose(model.fifths.mean, [20, 15, 10, 5, 0])
    np.testing.assert_allclose(model.fifths.high - model.fifths.low, 4)


def test_study_whose_fifths_are_missing_is_named(results):
    path = results.add_study().parents[2] / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(0, 5), path)
    with pytest.raises(InputError, match="predictions.parquet lacks fifth 4 of the accuracy gap"):
        fig11.measure(results.read_studies()["tiny"])


@pytest.mark.parametrize(
    ("unit", "words"),
    [("base models", "f: over 3 base models."), ("questions by subject", "f: over questions by subject.")],
)
def test_note_says_what_the_intervals_of_the_fifths_count(results, unit, words):
    results.add_worlds()
    runs = [results.add_study(world=world) for world in range(3)]
    path = runs[0].parents[2] / "predictions.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"unit": unit} for row in rows], schema=columns.PREDICTIONS), path)
    _, figure = fig11.draw(results.read_studies())
    assert words in figure.get_supxlabel().replace("\n", " ")


def test_adapter_stands_beside_as_hollow_marks_and_one_base_model_is_said_to_have_no_interval(results):
    results.add()
    results.add_study("tiny")
    _, alone = fig11.draw(results.read_studies())
    assert "no interval, as there is one base model" in alone.get_supxlabel()
    results.add_study("tiny-lora", gap=0.05)
    _, both = fig11.draw(results.read_studies())
    for panel, n_marks in ((0, 4), (1, 8), (2, 16), (4, 8), (5, 2)):
        marks = [line for line in both.axes[panel].containers]
        assert len(marks) == n_marks, panel
    assert both.axes[1].get_legend() is not None and alone.axes[1].get_legend() is None


def test_heads_are_averaged_in_the_order_of_each_base_models_own_attention(results):
    # Heads of odd base models are numbered in reverse; of two layers, attention is 2/3 and 4/3 of the mean.
    heads = _heads(results)
    np.testing.assert_allclose(
        heads.base.mean, [[0.25 * 2 / 3 + 0.01, 0.25 * 2 / 3 - 0.01], [1 / 3 + 0.01, 1 / 3 - 0.01]]
    )
    np.testing.assert_allclose(heads.base.high - heads.base.low, 0, atol=1e-12)
    np.testing.assert_allclose(heads.gap.mean, [[0.2 / 3] * 2, [0.4 / 3] * 2])
    np.testing.assert_allclose(heads.by_layer["top"].mean, [0.3, 0.6])
    assert fig12.claim(heads) == (
        "Finetuning on lesser-known rather than well-known facts clearly lowers a language model's subject attention "
        "in 2 of 2 layers and 4 of 4 heads; most in layer 2: −0.133 ± 0.000"
    )


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ((-0.1, -0.1), "in 0 of 2 layers (and raises it in 2) and 0 of 4 heads (and raises it in 4)"),
        ((0.1, -0.1), "in 0 of 2 layers and 0 of 4 heads"),
        ((0.1,), "In one base model, subject attention is lower after finetuning on lesser-known than on well-known"),
    ],
)
def test_heads_are_counted_as_the_intervals_allow(results, gaps, words):
    heads = _heads(results, gaps)
    assert words in fig12.claim(heads)
    _, figure = fig12.draw(results.read_studies())
    cells = [text.get_text() for text in figure.axes[1].texts]
    assert len(cells) == 4 and all(cell.startswith("(") == (gaps == (0.1, -0.1)) for cell in cells)


def test_study_without_the_heads_of_an_arm_is_named(results):
    path = results.add_study() / "attention.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("arm") != "bottom"), path)
    with pytest.raises(InputError, match="attention.parquet lacks heads of an arm"):
        fig12.measure(results.read_studies()["tiny"])
