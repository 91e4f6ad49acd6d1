"""What moves between two arms' toys with attention and with values."""

from dataclasses import replace

import numpy as np
import pytest

from core import runs, split
from core.seeds import Cell
from theory import evaluate, mediation, pipeline, runner
from theory.model.config import Weights


@pytest.fixture(scope="module")
def everything(small):
    return replace(small, finetune=replace(small.finetune, train="everything"))


@pytest.fixture(scope="module")
def simulation(everything):
    return pipeline.simulate(everything, [Cell(0, 0, 0)])[0]


def swapped(simulation, receiver, donor, parts):
    """Return held-out answers of the receiver's weights with these parts of the donor's."""
    own, given = simulation.weights[receiver], simulation.weights[donor]
    mixed = Weights(*(getattr(given if name in parts else own, name) for name in Weights._fields))
    rows = np.flatnonzero(simulation.split.role == split.HELD_OUT)
    return evaluate.answer(mixed, simulation.store, rows)


VALUES = ("subject_values", "relation_values", "template_value")


def test_attention_and_values_are_the_donors_weights(simulation):
    for table, (receiver, donor) in zip(mediation.tables(simulation), mediation.PAIRS, strict=True):
        assert (table["receiver"], table["donor"]) == (receiver, donor)
        found = dict(zip(table["intervention"], zip(table["accuracy"], table["logprob"], strict=True), strict=True))
        expected = {
            "receiver": swapped(simulation, receiver, donor, ()),
            "donor": swapped(simulation, receiver, donor, Weights._fields),
            "attention@all": swapped(simulation, receiver, donor, set(Weights._fields) - set(VALUES)),
            "value@all": swapped(simulation, receiver, donor, VALUES),
            "value@subject": swapped(simulation, receiver, donor, VALUES[:1]),
        }
        for name, answers in expected.items():
            assert found[name] == pytest.approx((answers.correct.mean(), answers.answer_logprob.mean())), name


def test_only_the_subject_is_given_and_the_others_keep_their_proportions():
    own = evaluate.Read(np.array([[0.2, 0.6, 0.2]]), np.full((1, 3, 5), 1.0))
    given = evaluate.Read(np.array([[0.6, 0.1, 0.3]]), np.full((1, 3, 5), 2.0))
    read = mediation.INTERVENTIONS["attention@subject"](own, given)
    np.testing.assert_allclose(read.attention, [[0.6, 0.3, 0.1]])
    assert (read.values == 1).all()
    read = mediation.INTERVENTIONS["value@subject"](own, given)
    assert (read.values[:, 0] == 2).all() and (read.values[:, 1:] == 1).all() and read.attention is own.attention


def test_a_run_keeps_what_moved_where_attention_and_values_were_trained(everything, small, tmp_path):
    for name, config in (("both", everything), ("attention", small)):
        runner.run(config, name, [Cell(0, 0, 0)], tmp_path)
    both, attention = (runs.find_runs(tmp_path, "theory", name)[0] for name in ("both", "attention"))
    assert set(both.table("mediation")["intervention"].to_pylist()) == set(mediation.INTERVENTIONS)
    assert not (attention.path / "mediation.parquet").exists()
