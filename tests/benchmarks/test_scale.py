import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory, scale
from core import seeds
from core.errors import InputError
from theory import config, facts, pipeline, pretrain


def test_decades_of_rank_count_from_one() -> None:
    ids = np.array([0, 9, 10, 99, 100, 10**7 - 1, 10**8 - 1], np.int32)
    assert scale.decades_of(ids).tolist() == [0, 0, 1, 1, 2, 6, 7]


def test_counted_visits_are_those_of_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "DRAWS", 1)  # a block at a time, and the last block in part
    stage = pretrain.PretrainConfig(steps=230, batch_size=16)
    chosen = config.Config(facts=facts.FactsConfig(n_subjects=2000), pretrain=stage, n_records=1)
    one = pipeline.pretrained([pipeline.Unit(chosen, seeds.Cell(3, 0, 0))], pipeline.Clock())[0]
    visits = scale.count_visits(one.world, chosen)
    assert visits.sum() == 230 * 16
    # A drawn subject's values move, and no other's.
    moved = one.base.subject.any(axis=1)
    np.testing.assert_array_equal(np.bincount(one.store.subject, visits) > 0, moved)
    fewer = scale.count_visits(one.world, replace(chosen, pretrain=replace(stage, steps=200)))
    assert ((visits - fewer) >= 0).all() and (visits - fewer).sum() == 30 * 16


def test_a_small_world_is_measured_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scale.run(scale.Settings(subjects=2000, steps=1000, finetune_steps=20, sample=300, out=tmp_path / "all.json"))
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["n_facts"] == 8000 and found["n_draws"] == 256_000
    assert found["subjects_drawn"] == found["subjects_moved"] == 2000
    assert found["chi_square_p"] > 1e-3
    assert found["distinct"] == pytest.approx(found["expected_distinct"], rel=0.02)
    assert found["r_squared"] > 0.9
    decades = found["decades"]
    assert [decade["first"] for decade in decades] == [1, 11, 101, 1001]
    assert [decade["n_subjects"] for decade in decades] == [10, 90, 900, 1000]
    assert sum(decade["visits"] * decade["n_facts"] for decade in decades) == pytest.approx(256_000)
    assert sum(decade["expected_visits"] * decade["n_facts"] for decade in decades) == pytest.approx(256_000)
    saliences = [decade["salience"] for decade in decades]
    assert saliences == sorted(saliences, reverse=True)
    assert all(0 <= decade["accuracy"][arm] <= 1 for decade in decades for arm in scale.ARMS)
    stages = [stage["stage"] for stage in found["stages"]]
    assert stages == ["facts", "pretrain", "split", "finetune", "visits", "R6", "answers"]
    printed = capsys.readouterr().out
    assert "the same" in printed and "NOT the same" not in printed


def test_sampled_accuracies_are_those_of_the_whole_world() -> None:
    chosen = config.Config(
        facts=facts.FactsConfig(n_subjects=300), pretrain=pretrain.PretrainConfig(steps=300), n_records=1
    )
    units = [pipeline.Unit(chosen, seeds.Cell(0, 0, 0))]
    prepared = pipeline.pretrained(units, pipeline.Clock())
    ends = pipeline.records_at_end(prepared)
    trained = pipeline.finetuned(prepared, pipeline.Clock(), records=ends, n_probe=10**5, arms=scale.ARMS)[0]
    by_decade = scale._accuracies(trained, 10**5)
    held_out = prepared[0].store.subject[prepared[0].split.role == 2]
    sizes = np.bincount(scale.decades_of(held_out))
    for place, arm in enumerate(scale.ARMS):
        mean = np.nansum(np.array(by_decade[arm]) * sizes) / sizes.sum()
        assert mean == pytest.approx(float(trained.measured.accuracy[place]), abs=2e-3)


def test_a_peak_begins_anew() -> None:
    if not memory._RESET.exists():
        pytest.skip("this system keeps one peak for the whole process")
    memory.reset()
    before = memory.peak()
    held = np.ones(2**25)
    with_it = memory.peak()
    assert with_it - before > 0.9 * held.nbytes
    del held
    memory.reset()
    assert memory.peak() < with_it - 0.9 * 2**28


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--finetune-steps is 0"):
        scale.run(scale.Settings(finetune_steps=0))
    with pytest.raises(InputError, match="there is no folder"):
        scale.run(scale.Settings(out=tmp_path / "missing" / "all.json"))
