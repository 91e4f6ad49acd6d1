"""Runs as groups of the same questions, and the intervals over them."""

import numpy as np
import pytest

from core import runs as results
from core.seeds import Cell
from empirical import groups
from empirical.groups import Group


def _clustered(cluster, world=0):
    return Group(world, (0,), {}, np.asarray(cluster), np.zeros(len(cluster), dtype=int), False)


def test_the_bootstrap_is_that_of_drawn_seeds_and_clusters():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 30))
    values[:, 5] = np.nan
    cluster = np.arange(30) % 6
    found = groups.draws([_clustered(cluster)], [values])
    brute = []
    for _ in range(2000):
        seeds, clusters = rng.integers(3, size=3), rng.integers(6, size=6)
        drawn = [values[seed][cluster == c] for seed in seeds for c in clusters]
        brute.append(np.nanmean(np.concatenate(drawn)))
    assert np.mean(found) == pytest.approx(np.mean(brute), abs=0.02)
    assert np.std(found) == pytest.approx(np.std(brute), rel=0.1)


def test_draws_without_any_value_say_nothing():
    values = np.full((1, 4), np.nan)
    values[0, 0] = 0.5
    cluster = np.arange(4)
    found = groups.draws([_clustered(cluster)], [values])
    assert np.isnan(found).any() and set(found[~np.isnan(found)]) == {0.5}
    columns = {"top": {"correct": values}, "bottom": {"correct": np.zeros((1, 4))}}
    group = Group(0, (0,), columns, cluster, np.zeros(4, dtype=int), False)
    interval = groups.interval([group], lambda group: groups.difference(group, "top", "bottom", "correct"))
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_an_interval_is_narrower_with_clusters_that_agree_less():
    gap = np.repeat(np.random.default_rng(0).normal(size=10), 10)[None]
    columns = {"top": {"correct": gap}, "bottom": {"correct": np.zeros((1, 100))}}
    widths = []
    for cluster in (np.arange(100) // 10, np.arange(100)):
        group = Group(0, (0,), columns, cluster, np.zeros(100, dtype=int), False)
        found = groups.interval([group], lambda group: groups.difference(group, "top", "bottom", "correct"))
        widths.append(found.high - found.low)
    assert widths[1] < 0.6 * widths[0]


def test_a_cluster_that_is_drawn_is_drawn_in_every_split_that_has_it():
    value = np.random.default_rng(0).normal(size=40)
    alike, apart = np.arange(40), np.arange(40, 80)
    one = groups.draws([_clustered(alike)], [value[None]])
    same, other = (
        groups.draws([_clustered(alike), _clustered(second)], [value[None], value[None]]) for second in (alike, apart)
    )
    np.testing.assert_allclose(same, one)  # the same questions twice say no more than once
    assert np.std(other) == pytest.approx(np.std(one) / np.sqrt(2), rel=0.1)


def test_the_interval_over_splits_of_one_model_is_as_wide_as_the_means_of_other_questions_spread():
    """Splits of half of the same subjects, whose effects they share; treated as independent it is too narrow."""
    rng = np.random.default_rng(0)

    def study():
        effect = rng.normal(size=120)
        held_out = [rng.permutation(120)[:60] for _ in range(4)]
        return held_out, [effect[rows][None] for rows in held_out]

    spread = np.std([np.mean(values) for _, values in (study() for _ in range(2000))])
    studies = [study() for _ in range(20)]
    width = [np.std(groups.draws([_clustered(rows) for rows in held_out], parts)) for held_out, parts in studies]
    apart = [np.mean([np.var(groups.draws([_clustered(np.arange(60))], [p])) for p in parts]) for _, parts in studies]
    assert np.mean(width) == pytest.approx(spread, rel=0.1)
    assert np.sqrt(np.mean(apart) / 4) < 0.75 * spread


def test_subjects_of_all_splits_are_numbered_together(tmp_path):
    names = (["Ann", "Bo", "Bo", ""], ["Cy", "BO", "Ann", ""], ["Ann", "Bo", "Cy", "Di"])
    for split, subjects in enumerate(names):
        _write_split(tmp_path, split, subjects)
    first, second, third = (group.cluster for group in groups.read(results.find_runs(tmp_path, "empirical", "made")))
    assert first[1] == first[2] == second[1] == third[1]
    assert first[0] == second[2] == third[0] and second[0] == third[2]
    assert first[3] == second[3]  # of no subject: the fact itself
    assert len({*first, *second, *third}) == 5


def _write_split(out, split, subjects):
    n = len(subjects)
    rows = {"arm": "base", "fact": np.arange(n), "subject": subjects, "relation": "r", "role": "held_out"}
    rows |= {"knownness": np.zeros(n), "correct": np.zeros(n, dtype=bool), "predicted": "x"}
    report = {"config": {}, "seeds": Cell(0, split, 0)._asdict(), "metrics": {"base": {}}}
    results.write_run(results.directory(out, "empirical", "made", Cell(0, split, 0)), report, {"facts": [rows]})


def test_a_share_of_some_questions_is_a_mean_over_all_with_the_interval_of_a_ratio():
    rng = np.random.default_rng(0)
    chosen, value = rng.random(400) < 0.4, (rng.random(400) < 0.3).astype(float)
    linear = groups._among(value, chosen)
    assert linear.mean() == pytest.approx(value[chosen].mean())
    group = Group(0, (0,), {"top": {"x": linear[None]}}, np.arange(400), np.zeros(400, dtype=int), False)
    found = groups.interval([group], lambda group: groups.values_of(group, "top", "x"))
    rows = rng.integers(400, size=(2000, 400))
    brute = np.quantile((value * chosen)[rows].sum(1) / chosen[rows].sum(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(brute, abs=0.01)
    assert np.isnan(groups._among(value, chosen & False)).all()


def test_the_base_models_generic_answer_is_that_of_the_whole_training_set_and_an_arms_its_own(tmp_path):
    rows = [
        {"arm": arm, "is_generic": [True, True, False], "is_generic_arm": own, "correct": [True, False, False]}
        | {"fact": np.arange(3), "subject": list("abc"), "relation": "r", "role": "held_out", "knownness": np.zeros(3)}
        | {"predicted": "x"}
        for arm, own in (("base", None), ("top", [False, True, True]))
    ]
    report = {"config": {}, "seeds": Cell(0, 0, 0)._asdict(), "metrics": {"base": {}, "top": {}}}
    results.write_run(results.directory(tmp_path, "empirical", "made", Cell(0, 0, 0)), report, {"facts": rows})
    (group,) = groups.read(results.find_runs(tmp_path, "empirical", "made"))
    for arm, generic, of_wrong in (("base", [1, 1, 0], 0.5), ("top", [0, 1, 1], 1.0)):
        assert group.columns[arm][groups.GENERIC].tolist() == [generic]
        assert group.columns[arm][groups.GENERIC_WRONG].mean() == pytest.approx(of_wrong)
