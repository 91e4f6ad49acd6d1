"""What a plan counts, times and says, on a small model; and without one."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from core import statistics
from core.facts.record import FactSet
from core.seeds import Cell
from core.split import SplitConfig
from empirical import __main__ as command
from empirical import facts, plan, study
from empirical.config import Config
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig
from empirical.plan import Timing
from empirical.study import Base

CELLS = [Cell(0, split, seed) for split in range(2) for seed in range(3)]


@pytest.fixture
def config(llama, words, tmp_path) -> Config:
    llama.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    lines = [f"What is the job of Ann{i}?,baker{i % 5},Ann{i},job" for i in range(100)]
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer,subject,relation", *lines]))
    return Config(
        facts=FactsConfig(source="table", path=tmp_path / "questions.csv"),
        model=ModelConfig(name=str(tmp_path / "model"), precision="float32"),
        knownness=KnownnessConfig(measure="logprob", shots=1, n_prompts=1),
        split=SplitConfig(held_out=0.4, dev=0.2, within_relation=True),
        finetune=FinetuneConfig(learning_rates=(1e-3, 1e-2), train=TrainConfig(epochs=3, batch_size=8)),
        arms=("top", "bottom", "whole", "rare", "size_5"),
    )


def given_by(config) -> FactSet:
    given = facts.load(config.facts)
    assert given is not None
    return given


def base_of(config) -> Base:
    given = given_by(config)
    return Base(study.models_config(config), given.facts, given.notes)


def said(config, cells=CELLS) -> str:
    console = Console(record=True, width=200)
    plan.show(config, given_by(config), cells, console)
    return " ".join(console.export_text().split())


def test_arms_and_finetunings_are_counted_as_the_study_makes_them(config):
    sizes = plan.sizes_of(config, base_of(config), CELLS)
    assert (sizes.n_facts, sizes.n_training, sizes.n_dev, sizes.n_held_out) == (100, 40, 20, 40)
    assert {name: sizes.arms[name] for name in ("top", "bottom", "whole", "size_5")} == {
        "top": 20,
        "bottom": 20,
        "whole": 40,
        "size_5": 2,
    }
    # Five arms: two rates for each of two splits, and then every seed.
    assert sizes.n_trainings(config) == 5 * (2 * 2 + 6)
    one_rate = replace(config, finetune=replace(config.finetune, learning_rates=(1e-3,)))
    assert sizes.n_trainings(one_rate) == 5 * 6


def test_time_is_what_a_fact_takes_times_how_often_it_is_read(config):
    sizes = plan.sizes_of(config, base_of(config), CELLS)
    timing = Timing(score=1.0, recall=2.0, finetune=10.0, measure=100.0, answer=1000.0, recalled=0.3, n_asked=100)
    in_arms = sum(sizes.arms.values())
    assert timing.total(sizes, config) == {
        "scoring": 2 * (100 * 1 + 40 * 2),
        "finetuning": in_arms * (2 * 2 + 6) * 3 * 10,
        "measuring": 40 * (2 + 5 * 6) * 100 + (in_arms * 6 + 20 * 5 * 2 * 2) * 1000,
    }


def test_a_plan_says_sizes_memory_time_and_power_and_writes_nothing(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    printed = said(config)
    assert "100 facts: 40 for training, 20 dev, 40 held out. 6 runs on 2 splits, 50 finetunings" in printed
    assert "full, float32" in printed and "GB are free" in printed
    assert all(stage in printed for stage in ("scoring", "finetuning", "measuring", "all"))
    assert "The base model recalls 0.0% of 40 training facts" in printed
    assert "answers 0.0% of 40 such questions, as guessing would" in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_without_the_weights_there_is_power_and_without_the_config_no_memory_either(config):
    folder = Path(config.model.name)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    printed = said(config)
    assert "million parameters" in printed and "What it takes here is not known" in printed
    for accuracy in plan.ASSUMED:
        gap = 100 * statistics.smallest_gap(40, accuracy)
        assert f"where arms answer {accuracy:.0%} of 40 held-out questions, a gap of {gap:.1f} points" in printed
    (folder / "config.json").unlink()
    printed = said(config)
    assert "million parameters" not in printed and "its config cannot be read" in printed and "Power" in printed


def test_an_adapter_takes_memory_for_what_it_trains_alone(config):
    lora = replace(config, finetune=replace(config.finetune, method="lora"))
    full, adapter = (plan.weights(one, base_of(one)) for one in (config, lora))
    assert full is not None and adapter is not None
    assert full.n_parameters == full.n_trained == adapter.n_parameters > adapter.n_trained > 0
    assert full.bytes_needed == 16 * full.n_parameters
    assert adapter.bytes_needed == 4 * full.n_parameters + 16 * adapter.n_trained


def test_the_command_plans_published_models_alone(config, tmp_path, capsys):
    flags = ["--facts.source", "table", "--facts.path", str(config.facts.path), "--knownness.measure", "logprob"]
    named = [*flags, "--model.name", config.model.name, "--knownness.shots", "1", "--knownness.n-prompts", "1"]
    assert command.main(["run", "tiny", *named, "--plan", "--out", str(tmp_path / "out")]) == 0
    assert "held out" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert command.main(["run", "tiny", "--plan"]) == 2
    assert "--model.name" in capsys.readouterr().err
