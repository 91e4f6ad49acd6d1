import json
from pathlib import Path

import pytest

from benchmarks import designs, growth, one_by_one, roofline, sweep, torch_loop
from benchmarks.sweep_report import Measured
from core.errors import InputError

TINY = designs.Size(n_configs=6, n_subjects=60, steps=12, finetune_steps=5)


@pytest.mark.parametrize("kind", ["apart", "shared"])
def test_a_design_has_as_many_different_configs_as_asked_for(kind: designs.Kind) -> None:
    found = designs.build(kind, TINY).configs
    assert len(found) == len(set(found)) == 6
    assert len({config.facts.popularity_exponent for config in found}) == 2
    assert sum(config.pretrain.steps for config in found) == 6 * 12


def test_steps_are_counted_for_every_config_and_done_once_for_all_that_share_them() -> None:
    apart, shared = (designs.count(designs.build(kind, TINY).configs) for kind in ("apart", "shared"))
    assert apart == designs.Counts(pretrain=72, pretrain_done=72, finetune=6 * 4 * 5)
    # Lengths 6, 12 and 18 in each of two worlds.
    assert shared == designs.Counts(pretrain=72, pretrain_done=2 * 18, finetune=6 * 4 * 5)
    assert (shared.counted, shared.done) == (192, 156)


def test_a_run_tells_the_stages_apart() -> None:
    found = designs.run(designs.build("shared", TINY))
    assert tuple(found.stages) == designs.STAGES
    assert all(seconds > 0 for seconds in found.stages.values())
    assert found.training < sum(found.stages.values()) < found.seconds


def test_the_cost_of_all_configs_is_their_steps_and_a_compilation_each() -> None:
    counts = designs.Counts(pretrain=100, pretrain_done=10, finetune=30)
    assert one_by_one.Cost(0.1, 0.01, 2.0).total(counts, 5) == pytest.approx(10 + 0.3 + 10)


def test_the_share_of_the_limit_counts_the_steps_done() -> None:
    counts = designs.Counts(pretrain=100, pretrain_done=10, finetune=30)
    of = Measured("shared", 5, 81, counts, designs.Timed(9.0, {}))
    stored, asked = roofline.work(256, 81), roofline.question_work(256, 81)
    assert of.needed.exponentials == 10 * stored.exponentials + 30 * asked.exponentials
    machine = roofline.Machine({"jax": of.needed.exponentials / 0.5}, {"read": of.needed.bytes / 0.25})
    assert of.share([2.0, 4.0], machine) == pytest.approx(0.25)  # half a second of the better run's two


def test_one_config_is_timed_in_every_program() -> None:
    task = one_by_one.task(designs.build("apart", TINY).configs[0])
    for loop in torch_loop.LOOPS.values():
        cost = one_by_one.by_torch(loop, task, "cpu", 0.001)
        assert cost.pretrain > 0 and cost.finetune > 0 and cost.compilation == 0
    cost = one_by_one.by_plain_jax(task)
    assert 0 < cost.pretrain < cost.compilation and 0 < cost.finetune < cost.compilation


@pytest.mark.slow
def test_the_quick_benchmark_prints_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.run(sweep.Settings(subjects=60, quick=True, out=tmp_path / "all.json"))
    figures = json.loads((tmp_path / "all.json").read_text())
    assert [one["design"] for one in figures["designs"]] == ["apart", "shared"]
    for one in figures["designs"]:
        assert {"whole", "training", "torch_dense", "jax_scan", "jax_dense"} <= one["counted_per_second"].keys()
        assert 0 < one["roofline"]["share_whole"] < one["roofline"]["share_training"] < 1
    (grown,) = figures["scaling"]
    assert grown["n_configs"] == 4 and grown["again"] < grown["first"]
    assert grown["peak_bytes"] > grown["before_bytes"] > 0
    assert "PyTorch, sparse gradients" in capsys.readouterr().out


def test_a_size_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(InputError, match=r"(?s)sweep of 1 configs failed.*learning rate|n_subjects|n-subjects"):
        growth.measure(designs.Size(1, 0, 10), "cpu")


@pytest.mark.parametrize("wrong", [{"configs": 0}, {"seconds": 0.0}, {"scaling": (0,)}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        sweep.run(sweep.Settings(**wrong))
