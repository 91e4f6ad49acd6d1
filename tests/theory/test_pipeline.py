"""The effect on a small world, with its interval over seeds, and what each seed decides."""

from dataclasses import replace

import numpy as np
import pytest

from core import split, statistics
from core.facts.store import Background
from core.seeds import Cell
from theory import facts, finetune, measure, pipeline, pretrain
from theory.config import Config


def final(simulations, name: str) -> dict[str, np.ndarray]:
    """Return the last record of a measurement, by arm and world."""
    return {
        arm: np.array([float(getattr(one.traces[arm].measured, name)[-1]) for one in simulations]) for arm in split.ARMS
    }


@pytest.mark.parametrize("name", ["accuracy", "subject_attention", "subject_share"])
def test_lesser_known_facts_leave_less_attention_to_the_subject_and_less_accuracy(simulations, name):
    by_arm = final(simulations, name)
    gap = statistics.paired_interval(by_arm["top"], by_arm["bottom"])
    assert gap.low > 0
    assert by_arm["bottom"].mean() < by_arm["random"].mean() < by_arm["top"].mean()
    assert by_arm["bottom"].mean() < by_arm["whole"].mean() < by_arm["top"].mean()


def test_the_order_in_attention_reverses_once_everything_is_stored(small):
    stored = replace(small, pretrain=replace(small.pretrain, steps=3000))
    simulations = pipeline.simulate(stored, [Cell(k, k, k) for k in range(4)])
    by_arm = final(simulations, "subject_attention")
    assert statistics.paired_interval(by_arm["top"], by_arm["bottom"]).high < 0
    assert min(np.mean(one.margin > 0) for one in simulations) > 0.9
    assert final(simulations, "accuracy")["bottom"].min() > 0.98


def leaves(simulation):
    """Return every array that a simulation made, by name."""
    made = {f"{arm} {name}": array for arm, one in simulation.weights.items() for name, array in one._asdict().items()}
    made |= {f"{arm} loss": trace.loss for arm, trace in simulation.traces.items()}
    made |= {f"{arm} rows": rows for arm, rows in simulation.split.arms.items()}
    return made | {"answer": simulation.store.answer, "knownness": simulation.knownness, "margin": simulation.margin}


def test_the_same_seeds_give_the_same_results_bit_for_bit_in_whatever_company(small, simulations):
    again = pipeline.simulate(small, [Cell(k, k, k) for k in (3, 1, 2, 0)])
    alone = pipeline.simulate(small, [Cell(2, 2, 2)])
    for one, other in ((simulations[3], again[0]), (simulations[0], again[3]), (simulations[2], alone[0])):
        assert one.cell == other.cell
        for name, array in leaves(one).items():
            np.testing.assert_array_equal(array, leaves(other)[name], err_msg=name)


def test_each_kind_of_seed_changes_its_own_kind_of_randomness_alone(small, simulations):
    cells = [Cell(0, 0, 1), Cell(0, 1, 0), Cell(1, 0, 0), Cell(0, 0, 0)]
    of_seed, of_split, of_world, same = (leaves(pipeline.simulate(small, [cell])[0]) for cell in cells)
    base = leaves(simulations[0])
    differing = [
        {name.split()[0] for name, array in other.items() if not np.array_equal(array, base[name])}
        for other in (of_seed, of_split, of_world, same)
    ]
    assert differing[0] == set(split.ARMS)
    np.testing.assert_array_equal(of_seed["random rows"], base["random rows"])
    assert differing[1] == set(split.ARMS) and (of_split["whole rows"] != base["whole rows"]).any()
    assert differing[2] == {"base", "answer", "margin", *split.ARMS}
    np.testing.assert_array_equal(of_world["top rows"], base["top rows"])
    assert differing[3] == set()


def test_many_worlds_are_trained_in_groups_that_fit_the_memory(small, monkeypatch):
    cells = [Cell(k, k, k) for k in range(5)]
    assert list(pipeline.groups(small, cells)) == [cells]
    one_world = 305 * (80 + 1) * 4 * 2  # values of answers and one filler, before and after, in single precision
    monkeypatch.setattr(pipeline, "MEMORY", 2 * one_world)
    assert list(pipeline.groups(small, cells)) == [cells[:2], cells[2:4], cells[4:]]
    everything = replace(small, finetune=replace(small.finetune, train="everything"))
    assert [len(group) for group in pipeline.groups(everything, cells)] == [1] * 5
    monkeypatch.setattr(pipeline, "MEMORY", 1)
    assert [len(group) for group in pipeline.groups(small, cells)] == [1] * 5


def test_splits_and_worlds_of_different_sizes_are_trained_together(small):
    """Within relations the arms' sizes depend on the split; a fraction of a background fact must not matter."""
    config = replace(
        small,
        facts=replace(small.facts, facts_per_subject=1, background=Background(size=0.3)),
        split=replace(small.split, within_relation=True),
    )
    simulations = pipeline.simulate(config, [Cell(k, k, k) for k in range(2)])
    assert len({len(one.split.arms["top"]) for one in simulations}) > 1
    for one in simulations:
        assert (one.split.role[one.store.is_background] == split.BACKGROUND).all()
        assert (one.weights["base"].subject_values[one.store.subject[one.store.is_background]] != 0).any()
        for arm, rows in one.split.arms.items():
            own = (
                one.weights[arm].subject_logit - one.weights[arm].subject_logit[-1]
            )  # the last is a background subject
            np.testing.assert_array_equal(np.flatnonzero(np.abs(own) > 1e-6), np.sort(one.store.subject[rows]))


def test_what_the_base_knows_does_not_depend_on_the_question_asked_later(small, simulations):
    """A fresh relation token has no value, but pretraining was asked with the relation's own."""
    fresh = replace(small, finetune=replace(small.finetune, prompt="fresh_relation"))
    one = pipeline.simulate(fresh, [Cell(0, 0, 0)])[0]
    np.testing.assert_array_equal(one.margin, simulations[0].margin)
    assert not one.weights["base"].relation_values.any()
    metrics, _, _ = measure.run(fresh, one)
    assert metrics["base"]["base_recall"] > 0.4


def test_every_stage_has_its_time_and_the_store_is_the_seeds_own(small, simulations):
    assert list(simulations[0].seconds) == ["facts", "pretrain", "split", "finetune"]
    for one in simulations:
        built = facts.build(small.facts, seed=one.cell.pretrain)
        np.testing.assert_array_equal(one.store.answer, built.answer)


def test_a_tables_subjects_are_split_by_their_names_where_roles_are_hashed(tmp_path):
    """The role of a subject is the same in a table without the others."""
    rows = [f"s{i},job,a{i % 7},{1 + i}" for i in range(60)]
    roles = []
    for kept in (rows, rows[::2]):
        table = tmp_path / f"{len(kept)}.csv"
        table.write_text("\n".join(["subject,relation,answer,popularity", *kept]) + "\n")
        quick = pretrain.PretrainConfig(steps=2), finetune.FinetuneConfig(steps=2), split.SplitConfig(draw="hashed")
        config = Config(
            facts.FactsConfig(path=table), pretrain=quick[0], finetune=quick[1], split=quick[2], n_records=1
        )
        (world,) = pipeline.simulate(config, [Cell(0, 0, 0)])
        assert world.store.keys is not None
        roles.append(dict(zip(world.store.keys, world.split.role.tolist(), strict=True)))
    assert len(roles[1]) == 30 and all(roles[0][name] == role for name, role in roles[1].items())
