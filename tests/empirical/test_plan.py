"""What a plan counts, times and says, on a small model; and without one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from core import runs, statistics
from core.errors import InputError
from core.facts.record import FactSet
from core.seeds import Cell
from core.split import SplitConfig
from empirical import __main__ as command
from empirical import config as configs
from empirical import facts, plan, processes, room, runner, steps, study
from empirical.config import Config
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import cost, memory, order, sharded
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig
from empirical.mediation import MediationConfig
from empirical.steps import Costs, Unit
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


def said(config, out=Path("nowhere"), cells=CELLS) -> str:
    console = Console(record=True, width=200)
    plan.show(config, given_by(config), "small", cells, out, console)
    return " ".join(console.export_text().split())


def sizes_of(config):
    return steps.sizes_of(config, base_of(config), CELLS)


def test_arms_and_finetunings_are_counted_as_the_study_makes_them(config):
    sizes = sizes_of(config)
    assert (sizes.n_facts, sizes.n_training, sizes.n_dev, sizes.n_held_out) == (100, 40, 20, 40)
    assert {name: sizes.arms[name] for name in ("top", "bottom", "whole", "size_5")} == {
        "top": 20,
        "bottom": 20,
        "whole": 40,
        "size_5": 2,
    }
    # Five arms: two rates for each of two splits, and then every seed but 0, which takes the better rate's weights.
    assert sizes.n_trainings(config) == 5 * (2 * 2 + 4)
    one_rate = replace(config, finetune=replace(config.finetune, learning_rates=(1e-3,)))
    assert sizes.n_trainings(one_rate) == 5 * 6


def test_each_step_is_what_a_fact_takes_times_how_often_it_is_read(config):
    sizes = sizes_of(config)
    in_arms, n_traced = sum(sizes.arms.values()), (config.finetune.train.n_records + 1) * 20
    found = sizes.facts(config)
    assert found == {
        "scoring": {"score": 2 * 100, "recall": 2 * 40},
        "rates": {"tune": in_arms * 2 * 2 * 3, "trace": 5 * 2 * 2 * n_traced, "answer": 5 * 2 * 2 * (20 + 40)},
        "finetuning": {"tune": in_arms * 4 * 3, "trace": 5 * 4 * n_traced},
        "measuring": {"measure": 40 * (2 + 5 * 6), "answer": in_arms * 6},
    }
    kinds = ("score", "recall", "tune", "trace", "measure", "answer")
    costs = Costs({kind: Unit(10.0**place, 2.0, None) for place, kind in enumerate(kinds)}, None, 9)
    assert costs.total(found["scoring"], "tokens") == 200 + 10 * 80
    assert costs.total(found["rates"], "tokens") == sum(
        10 ** kinds.index(kind) * n for kind, n in found["rates"].items()
    )
    assert costs.total(found["rates"], "seconds") == 0 and not costs.is_timed


def test_steps_that_are_given_count_in_place_of_epochs(config):
    sizes, own = sizes_of(config), config.finetune.train
    longer = replace(config, finetune=replace(config.finetune, train=replace(own, steps=12)), arms=("top", "whole"))
    sizes = replace(sizes, arms={arm: sizes.arms[arm] for arm in longer.arms})
    # Of 20 facts, three batches are an epoch: four of them. Of 40, five: two, and two batches of eight.
    tuned = 4 * 20 + 2 * 40 + 2 * 8
    assert sizes.facts(longer)["rates"]["tune"] == tuned * 2 * 2
    assert sizes.facts(longer)["finetuning"]["tune"] == tuned * 4
    half = replace(sizes, arms={"whole+steps=half": 40})
    # As many steps as the top half takes in three epochs, nine: an epoch of 40, and four batches of eight.
    assert half.facts(replace(config, arms=tuple(half.arms)))["finetuning"]["tune"] == (40 + 4 * 8) * 6


def test_a_step_is_timed_on_few_steps_however_many_are_given(config, monkeypatch):
    seen = []

    def trained(given, base, own, **rest):
        seen.append(order.n_steps(given.train, len(own)))
        for _ in range(seen[-1]):
            rest["progress"]("loss", 0.0)

    monkeypatch.setattr(steps.finetune, "run", trained)
    longer = replace(config, finetune=replace(config.finetune, train=replace(config.finetune.train, steps=5000)))
    base = base_of(longer)
    reads = cost.operations(room.of(longer, base.model).network)
    steps.costs(longer, base, base.read(), reads, reads, is_timed=True)
    assert seen == [steps.N_STEPS]


def test_questions_after_examples_are_read_twice(config, tmp_path):
    rows = [
        {"question": f"Which is {i}?", "answer": "ABCD"[i % 4], "choices": [f"{mark}{i}" for mark in "pqrs"]}
        for i in range(100)
    ]
    path = tmp_path / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = replace(config, facts=replace(config.facts, path=path), split=replace(config.split, within_relation=False))
    asked = replace(config, evaluate=replace(config.evaluate, shots=3))
    found = []
    for one in (config, asked):
        base = base_of(one)
        needed = room.of(one, base.model)
        reads = cost.operations(needed.network)
        model = steps.stand_in(base, needed.network, base.read().tokenizer)
        encoded = model.format.ask(base.facts, new_tokens=4)
        units = steps.costs(one, base, model, reads, reads, is_timed=False).units
        found.append((units, plan._bytes(one, sizes_of(one), needed, encoded)["measuring"].memory))
    (once, memory_once), (twice, memory_twice) = found
    assert twice["measure"].tokens > once["measure"].tokens + 10 and memory_twice > memory_once
    assert twice["score"].tokens == once["score"].tokens


def test_a_plan_says_sizes_memory_time_and_power_and_writes_nothing(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    printed = said(config, tmp_path / "out")
    assert "100 facts: 40 for training, 20 dev, 40 held out. 6 runs on 2 splits, 40 finetunings" in printed
    assert "full, float32" in printed and "GB are free" in printed and "not timed" not in printed
    assert re.search(
        "step done tokens FLOP hours memory, GB disk, GB scoring 0% .*rates 0% .*measuring 0% .*all", printed
    )
    assert "The base model recalls 0.0% of 40 training facts" in printed
    assert "answers 0.0% of 40 such questions, as guessing would" in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_of_a_folder_without_weights_everything_is_said_but_what_the_model_recalls(config):
    folder = Path(config.model.name)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    printed = said(config)
    assert "million parameters" in printed and "The model was not timed" in printed and "Tflop/s (float32)" in printed
    for accuracy in plan.ASSUMED:
        gap = 100 * statistics.smallest_gap(40, accuracy)
        assert f"where arms answer {accuracy:.0%} of 40 held-out questions, a gap of {gap:.1f} points" in printed
    (folder / "config.json").unlink()
    printed = said(config)
    assert "million parameters" not in printed and "its config cannot be read" in printed and "Power" in printed


def test_a_stand_in_reads_what_the_model_reads(config):
    base = base_of(config)
    needed = room.of(config, base.model)
    model = base.read()
    reads = cost.operations(needed.network)
    made = [
        steps.costs(config, base, one, reads, reads, is_timed=is_timed).units
        for one, is_timed in ((model, True), (steps.stand_in(base, needed.network, model.tokenizer), False))
    ]
    for kind in ("score", "tune", "trace"):
        assert (made[0][kind].tokens, made[0][kind].flops) == (made[1][kind].tokens, made[1][kind].flops)
        assert made[0][kind].tokens > 5 and made[0][kind].seconds and made[1][kind].seconds is None
    # A random model seldom ends its answer: both are as long as they may be, all but.
    assert made[0]["answer"].tokens == pytest.approx(made[1]["answer"].tokens, rel=0.2)


def test_what_is_done_is_said_by_step(config, tmp_path):
    stored, folder = configs.to_json(config), tmp_path / "empirical" / "small"
    report = {"config": stored, "facts_hash": "these"}
    run = folder / "pretrain_0" / "split_0"
    runs.write_run(run / ".shared" / "base", report, {})
    runs.write_run(run / ".shared" / "rates" / "top", report, {})
    runs.write_run(run / "seed_0", report, {})
    runs.write_run(run / ".seed_1.work" / "top", report, {})
    runs.write_run(run / ".seed_1.work" / "whole", report | {"facts_hash": "others"}, {})
    found = steps.done(config, "these", folder, CELLS)
    assert found == {"scoring": 1 / 2, "rates": 1 / 10, "finetuning": 6 / 30, "measuring": 7 / 32}
    assert set(steps.done(config, "others", tmp_path / "nowhere" / "small", CELLS).values()) == {0}


@pytest.fixture
def uncounted(monkeypatch):
    """Let a plan read nothing: where so little memory is free it would read token by token."""

    def refuse(*_, **__):
        raise InputError("not now")

    monkeypatch.setattr(steps, "costs", refuse)


def with_lora(config):
    return replace(config, finetune=replace(config.finetune, method="lora"))


def test_an_adapter_takes_memory_for_what_it_trains_alone(config):
    full, adapter = (room.of(one, base_of(one).model) for one in (config, with_lora(config)))
    assert full.n_parameters == full.n_trained == adapter.n_parameters > adapter.n_trained > 0
    assert full.weights + full.training == 16 * full.n_parameters and full.checkpoint == 12 * full.n_parameters
    assert adapter.weights + adapter.training == 4 * full.n_parameters + 16 * adapter.n_trained
    assert adapter.checkpoint == 12 * adapter.n_trained


def test_too_little_memory_is_refused_before_loading_with_what_would_fit(config, uncounted, monkeypatch, tmp_path):
    full, adapter = (room.of(one, base_of(one).model) for one in (config, with_lora(config)))
    kept = adapter.weights + adapter.training
    for path in Path(config.model.name).glob("*.safetensors"):
        path.unlink()  # nothing is loaded
    for free, expected in (
        (kept, "It would fit with --finetune.method lora."),
        (kept - adapter.weights // 2, "It would fit with --finetune.method lora --model.precision bfloat16."),
        (1000, "Take a smaller model, or more memory."),
    ):
        monkeypatch.setattr(memory, "free", lambda device, free=free: free)
        told = re.escape(expected)
        with pytest.raises(InputError, match=rf"GB are needed, and 0.0 GB of this machine are free.\n{told}"):
            runner.run(config, given_by(config), "small", CELLS, tmp_path / "out", progress=lambda doing, share: None)
        assert f"That is too little memory. {expected}" in said(config)
    monkeypatch.setattr(memory, "free", lambda device: kept - adapter.weights // 2)  # what is set is not named again
    assert room.remedy(with_lora(config), base_of(config).model) == "--model.precision bfloat16"
    monkeypatch.setattr(memory, "free", lambda device: full.weights + full.training)
    room.check(config, base_of(config).model)  # it fits just so


def test_of_a_model_that_is_shared_out_each_process_needs_its_share(config, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 4)
    shared = replace(config, finetune=replace(config.finetune, train=TrainConfig(shard=True)))
    whole, share = (room.of(one, base_of(one).model) for one in (config, shared))
    n = whole.n_parameters
    # Weights, gradients and moments in float32; weights and gradients of both layers at work, and of all beside them.
    assert share.weights == whole.weights and share.weights + share.training == 16 * n // 4 + 8 * n
    monkeypatch.setattr(sharded, "n_whole", lambda network: 0)  # of many layers two are few
    share = room.of(shared, base_of(config).model)
    assert share.weights + share.training == 5 * n  # the whole weights, gathered of the shares
    monkeypatch.setattr(memory, "free", lambda device: 5 * n)
    room.check(shared, base_of(config).model)
    with pytest.raises(InputError, match="It would fit with --finetune.train.shard.$"):
        room.check(config, base_of(config).model)


def test_weights_of_four_bits_are_named_on_a_gpu_where_nothing_else_fits(config, monkeypatch):
    single, adapter = base_of(config).model, with_lora(config)
    model = replace(single, precision="bfloat16")
    four = replace(model, quantise="nf4")
    half, least = (found.weights + found.training for found in (room.of(adapter, one) for one in (model, four)))
    assert least < half
    monkeypatch.setattr(memory, "free", lambda device: least)
    assert room.remedy(adapter, model) is room.remedy(config, model) is None  # of a processor
    monkeypatch.setattr(room.models, "device", lambda: torch.device("cuda"))
    assert room.remedy(adapter, model) == "--model.quantise nf4"
    with pytest.raises(InputError, match="It would fit with --finetune.method lora --model.quantise nf4.$"):
        room.check(config, model)
    given = replace(adapter, mediation=MediationConfig(pairs=("bottom:top",)))
    shared = replace(adapter, finetune=replace(adapter.finetune, train=TrainConfig(shard=True)))
    for other in (given, shared):
        assert room.remedy(other, model) is None
    monkeypatch.setattr(memory, "free", lambda device: half)
    assert room.remedy(adapter, single) == "--model.precision bfloat16"  # the same base comes first


def test_activations_that_do_not_fit_are_said_with_what_makes_them_fewer(config, uncounted, monkeypatch):
    needed = room.of(config, base_of(config).model)
    longest = room.Texts(8, 4000, 3)
    recomputed = replace(config, finetune=replace(config.finetune, train=TrainConfig(gradient_checkpointing=True)))
    least = [room.of(one, base_of(one).model).least(longest) for one in (config, recomputed)]
    assert least[1] < least[0]
    monkeypatch.setattr(memory, "free", lambda device: least[1])
    assert room.remedy(config, base_of(config).model, longest) == "--finetune.train.gradient-checkpointing"
    many = replace(config, finetune=replace(config.finetune, train=TrainConfig(batch_size=8, micro_batch_tokens=10**6)))
    kept = needed.weights + needed.training
    monkeypatch.setattr(memory, "free", lambda device: kept + 2 * (needed.least(longest) - kept) // 100)
    told = re.search(
        r"That is too little memory. It would fit with --finetune.train.micro-batch-tokens (\d+)", said(many)
    )
    assert told and int(told[1]) < 200


def test_the_command_plans_published_models_alone(config, tmp_path, capsys):
    flags = ["--facts.source", "table", "--facts.path", str(config.facts.path), "--knownness.measure", "logprob"]
    named = [*flags, "--model.name", config.model.name, "--knownness.shots", "1", "--knownness.n-prompts", "1"]
    assert command.main(["run", "tiny", *named, "--plan", "--out", str(tmp_path / "out")]) == 0
    assert "held out" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert command.main(["run", "tiny", "--plan"]) == 2
    assert "--model.name" in capsys.readouterr().err
    assert command.main(["run", "tiny", *named, "--plan", "--finetune.train.shard"]) == 2
    told = capsys.readouterr()
    assert "is of the command finetune" in told.err and not told.out


def test_a_plan_of_several_processes_is_refused_before_anything_is_said(config, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for flags in ([], ["--finetune.train.shard"]):
        assert command.main(["run", "tiny", "--model.name", config.model.name, "--plan", *flags]) == 2
        told = capsys.readouterr()
        assert "WORLD_SIZE is 2" in told.err and "as one process" in " ".join(told.err.split()) and not told.out
