"""Arms by rule and size: which facts each has, in the toy's flow and on the command line."""

from dataclasses import replace

import numpy as np
import pytest

from core import runs, split
from core.errors import InputError
from core.seeds import Cell
from theory import config as configs
from theory import knownness, pipeline, pretrain, selection
from theory.knownness import KnownnessConfig
from theory.law import selection as law


@pytest.fixture
def halves(simulations):
    return simulations[0].split


def drawn(names, one, halves, *, within_relation: bool = False):
    config = replace(split.SplitConfig(), within_relation=within_relation)
    return selection.draw(names, one.weights["base"], one.store, halves, config, seed=3)


def test_every_rule_takes_the_facts_that_it_ranks_highest(simulations, halves):
    one, train = simulations[0], halves.arms["whole"]
    arms, bounds = drawn([f"{rule}@120" for rule in selection.RULES], one, halves)
    base, store = one.weights["base"], one.store
    frequency = dict(zip(train.tolist(), split.frequencies(store.relation[train], store.answer[train]), strict=True))
    values = {
        "popular": store.popularity,
        "unpopular": -store.popularity,
        "salient": knownness.score(KnownnessConfig("salience"), base, store),
        "margin": knownness.margin(base, store),
        "logprob": knownness.logprob(base, store),
        "rarest": -np.array([frequency.get(row, 10**6) for row in range(len(store.answer))]),
    }
    for rule in selection.RULES:
        rows = arms[f"{rule}@120"]
        assert len(rows) == 120 and (np.diff(rows) > 0).all() and np.isin(rows, train).all()
        if rule in values:
            left = np.setdiff1d(train, rows)
            assert values[rule][rows].min() >= values[rule][left].max()
    modal = np.zeros(len(store.answer), bool)
    modal[train] = split.is_modal(store.relation[train], np.array(list(frequency.values())))
    assert not modal[arms["not_modal@120"]].any() and modal[arms["popular@120"]].any()
    assert list(bounds) == ["best@120"]
    np.testing.assert_array_equal(train[bounds["best@120"].rows], arms["best@120"])


def test_forces_are_those_at_the_start_and_at_the_resting_share(simulations, halves):
    one, train = simulations[0], halves.arms["whole"]
    arms, bounds = drawn(["force@100", "best@100"], one, halves)
    values = (
        one.weights["base"].subject_values[one.store.subject[train]],
        one.weights["base"].relation_values[one.store.relation[train]],
        np.broadcast_to(one.weights["base"].template_value, (len(train), len(one.weights["base"].template_value))),
    )
    for arm, share in {"force@100": 0.5, "best@100": bounds["best@100"].resting_share}.items():
        force = law.subject_force(np.stack(values, axis=1).astype(float), one.store.answer[train], share)
        chosen = np.isin(train, arms[arm])
        assert force[chosen].min() >= force[~chosen].max()


def test_within_relations_a_rule_takes_its_share_of_each(simulations, halves):
    one = simulations[0]
    arms, _ = drawn(["popular@0.25", "random@0.25"], one, halves, within_relation=True)
    whole = np.bincount(one.store.relation[halves.arms["whole"]])
    for rows in arms.values():
        np.testing.assert_allclose(np.bincount(one.store.relation[rows]), 0.25 * whole, atol=1)


def test_asking_for_one_rule_moves_no_other(simulations, halves):
    names = [f"{rule}@80" for rule in selection.RULES]
    whole, _ = drawn(names, simulations[0], halves)
    for name in names:
        np.testing.assert_array_equal(drawn([name], simulations[0], halves)[0][name], whole[name])


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("best@0", "no rule and size"),
        ("best@", "no rule and size"),
        ("finest@10", "the rules are popular, unpopular, random"),
        ("best@1.5", "no rule and size"),
        ("nothing", "--more-arms nothing: name each of"),
    ],
)
def test_an_arm_that_there_is_not_is_refused(small, arm, expected):
    with pytest.raises(InputError, match=expected):
        configs.check(replace(small, more_arms=(arm,)))


@pytest.mark.parametrize("arm", ["best@601", "popular@0.001"])
def test_a_size_beyond_the_training_facts_or_of_none_is_refused(simulations, halves, arm):
    with pytest.raises(InputError, match=f"--more-arms {arm}: there are 600 training facts"):
        drawn([arm], simulations[0], halves)


def test_a_size_beyond_the_training_facts_is_refused_before_anything_is_trained(small, monkeypatch):
    monkeypatch.setattr(pretrain, "run", None)
    with pytest.raises(InputError, match="--more-arms popular@601: there are 600 training facts"):
        pipeline.simulate(replace(small, more_arms=("popular@601",)), [Cell(0, 0, 0)])


def test_rules_are_compared_by_one_command_and_found_done(tmp_path, tell, small_flags):
    asked = ("select", "paper", "--rules", "popular", "best", "--sizes", 0.5, 100, "--seeds", 1, *small_flags)
    told = tell(*asked, "--out", tmp_path)
    assert told.code == 0, told.err
    assert "select-paper: which facts to finetune on" in told.out
    assert "best@100: no arm of as many facts rests at a share above" in told.out
    run = runs.read_run(tmp_path / "theory/select-paper/pretrain_0/split_0/seed_0")
    assert run.report["config"]["more_arms"] == ["popular@0.5", "best@0.5", "popular@100", "best@100"]
    metrics = run.report["metrics"]
    assert metrics["popular@0.5"]["accuracy"] == metrics["top"]["accuracy"]
    assert [metrics[arm]["n_trained"] for arm in ("best@0.5", "best@100")] == [300, 100]
    for arm in ("best@0.5", "best@100"):
        assert metrics[arm]["subject_share"] <= metrics[arm]["bound_subject_share"] + 0.03
        assert metrics[arm]["curriculum_subject_share"] <= metrics[arm]["bound_subject_share"] + 0.02
        assert metrics[arm]["curriculum_subject_share"] >= metrics[arm]["subject_share"] - 0.02
        assert metrics[arm]["predicted_accuracy"] == pytest.approx(metrics[arm]["accuracy"], abs=0.1)
    rows = {
        (row["result"], row["arm"])
        for row in runs.read_table(tmp_path / "theory/select-paper/predictions.parquet").to_pylist()
    }
    assert {("R9", "best@0.5"), ("R9", "best@100"), ("R4+R5", "all"), ("R4+R5", "popular@100")} <= rows
    again = tell(*asked, "--out", tmp_path)
    assert again.code == 0 and "0 runs made, 1 found done" in again.out
    too_many = tell("select", "paper", "--sizes", 10**6, *small_flags, "--out", tmp_path / "none")
    assert too_many.code == 2 and "there are 600 training facts" in too_many.error
    assert not [path for path in (tmp_path / "none").rglob("*") if path.is_file()]
