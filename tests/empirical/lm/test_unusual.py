"""Models that have no fused attention, or layers that keep a state: all but attention is measured of them too."""

import math
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from core import console
from core.errors import InputError
from core.facts.record import Fact
from core.split import HELD_OUT, TRAIN
from empirical import __main__ as command
from empirical import attention, evaluate, finetune, measure, mediation
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import generate, knockout, patch, reading, shape
from empirical.lm.model import LanguageModel, ModelConfig, load, save
from empirical.lm.train import TrainConfig
from empirical.measure import Questions
from empirical.mediation import MediationConfig


def _gemma2(sizes):
    return Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8))


def _gpt_oss(sizes):
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    more: dict[str, Any] = {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": rope}
    return GptOssForCausalLM(GptOssConfig(**sizes, **more))


def _bloom(sizes):
    given = {name: sizes[name] for name in ("vocab_size", "hidden_size", "initializer_range", "pad_token_id")}
    return BloomForCausalLM(BloomConfig(**given, n_layer=2, n_head=4))


def _qwen3_next(sizes):
    experts: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    linear: dict[str, Any] = {f"linear_{name}": size for name, size in LINEAR.items()}
    kinds = ["linear_attention", "full_attention"]
    more: dict[str, Any] = {"head_dim": 8, "shared_expert_intermediate_size": 16, "layer_types": kinds}
    return Qwen3NextForCausalLM(Qwen3NextConfig(**sizes, **experts, **linear, **more))


LINEAR = {"num_key_heads": 2, "num_value_heads": 2, "key_head_dim": 8, "value_head_dim": 8}


def _lfm2(sizes):
    return Lfm2ForCausalLM(Lfm2Config(**sizes, layer_types=["conv", "full_attention"]))


EAGER = {"gemma2": _gemma2, "gpt-oss": _gpt_oss, "bloom": _bloom}
HYBRID = {"qwen3-next": _qwen3_next, "lfm2": _lfm2}


@pytest.fixture
def made(words, sizes):
    """Return what makes the model of a name, of weights so large that its answers differ."""

    def make(name):
        torch.manual_seed(0)
        network = (EAGER | HYBRID)[name](sizes | {"initializer_range": 0.2})
        return LanguageModel(network.eval(), words, name)

    return make


NAMES = ["Bo", "Anabel", "Eve", "Maximilian", "Jo", "Ann"]
FACTS = [Fact(str(i), name, "city", f"Where is {name}?", ("Rome", "Ulm")[i % 2 :]) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize("name", [*EAGER, *HYBRID])
def test_answers_in_batches_after_a_shared_beginning_are_those_one_by_one(name, made):
    model = made(name)
    assert shape.keeps_states(model.network) == (name in HYBRID)
    shots = [Fact("9", "Cleo", "city", "Where is Cleo? She is said to be far away, in the south.", ("Oslo",))] * 2
    encoded = model.format.encode([model.format.build(fact, shots) for fact in FACTS])
    prompts, answers = [one.prompt for one in encoded], [one.completion for one in encoded]
    for stop in ((), tuple(range(250))):
        settings = {"stop": stop, "pad": model.pad, "max_new_tokens": 6}
        alone = [generate.greedy(model.network, [prompt], **settings)[0] for prompt in prompts]
        assert generate.greedy(model.network, prompts, **settings) == alone
    alone = [
        generate.answer_logprob(model.network, [p], [a], pad=model.pad)[0]
        for p, a in zip(prompts, answers, strict=True)
    ]
    np.testing.assert_allclose(
        generate.answer_logprob(model.network, prompts, answers, pad=model.pad), alone, atol=1e-3
    )
    config = EvaluateConfig(max_new_tokens=6)
    together = evaluate.answer(config, model, FACTS, encoded)
    apart = [evaluate.answer(config, model, [f], [one]) for f, one in zip(FACTS, encoded, strict=True)]
    assert together.predicted == [one.predicted[0] for one in apart]
    np.testing.assert_allclose(together.logprob, alone, atol=1e-3)


@pytest.mark.parametrize("name", [*EAGER, *HYBRID])
def test_a_study_measures_all_but_attention_and_says_so(name, made, capsys):
    model, n = made(name), len(FACTS)
    encoded = model.format.ask(FACTS)
    role = np.array([TRAIN] * 2 + [HELD_OUT] * (n - 2), dtype=np.int8)
    parts = (np.arange(n), np.zeros(n, dtype=int), np.zeros(n), role, np.arange(2, n), np.ones(n - 2, dtype=bool))
    console.note.cache_clear()
    found = measure.arm("base", model, Questions(FACTS, encoded, *parts, {}, 0), None, EvaluateConfig(max_new_tokens=2))
    assert "Attention and knockout are null" in capsys.readouterr().err
    assert found.attention == {} and np.isnan(found.by_question).all()
    assert found.metrics["subject_attention"] is None and found.metrics["knockout_drop"] is None
    assert math.isfinite(found.metrics["loss"] or math.nan) and len(found.facts["predicted"]) == n - 2


@pytest.mark.parametrize("name", [*EAGER, *HYBRID])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_is_loaded_finetuned_and_probed(name, method, made, tmp_path):
    save(made(name), tmp_path / "model")
    model = load(ModelConfig(str(tmp_path / "model")))
    encoded = model.format.ask(FACTS)
    modules = ("query_key_value",) if name == "bloom" else ("q_proj", "v_proj")
    config = FinetuneConfig(
        method=method,
        lora=Lora(modules=modules),
        train=TrainConfig(epochs=3, batch_size=4, n_records=1),
    )

    def probe(network):
        return measure.eval_subset(network, encoded, model.pad)

    options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path, "evaluate": probe}
    tuned, trace = finetune.run(config, model, encoded, **options)
    assert math.isfinite(trace[-1]["loss"]) and math.isnan(trace[-1]["subject_attention"])
    assert not tuned.network.training


@pytest.mark.parametrize("name", [*EAGER, *HYBRID])
def test_what_needs_the_attention_itself_is_refused(name, made):
    model = made(name)
    given = reading.read(model.network, model.format.ask(FACTS[:1]), model.pad)
    with pytest.raises(InputError, match="cannot be captured: "):
        attention.masses(model, given, grams={})
    for ask in (knockout.logprob, patch.scores) if name in EAGER else ():
        with pytest.raises(InputError, match="cannot be captured: "):
            ask(model.network, given.questions)


@pytest.mark.parametrize("name", HYBRID)
def test_cutting_and_patching_say_which_layers_have_no_attention_and_change_nothing_there(name, made, capsys):
    model, other = made(name), made(name)
    with torch.no_grad():
        for weights in other.network.parameters():
            weights += 0.05 * torch.randn_like(weights)
    asked = mediation.Asked(EvaluateConfig(), model.format.ask(FACTS))
    whole = mediation.cut(model, None, asked)
    assert (mediation.cut(model, (0,), asked) == whole).all()
    assert (mediation.cut(model, (1,), asked) == mediation.cut(model, (0, 1), asked)).all()
    assert (np.abs(mediation.cut(model, (1,), asked) - whole) > 1e-6).all()

    tried = mediation.interventions(MediationConfig(patches=("attention@subject",), windows=2, grafts=()), model)
    assert (
        capsys.readouterr().err.count(f"{name}: attention is cut and given in the layers that have it alone. Layers 0 ")
        == 1
    )
    plain = mediation.plain(model, asked).logprob
    found = {what: patched(model, other, asked).logprob for what, patched in tried.items()}
    assert (found["attention@subject:0"] == plain).all()
    assert (found["attention@subject:1"] == found["attention@subject"]).all()
    assert np.abs(found["attention@subject"] - plain).max() > 1e-6


@pytest.mark.parametrize("name", HYBRID)
def test_the_command_knockout_says_it_too(name, made, tmp_path, capsys):
    save(made(name), tmp_path / "model")
    lines = [f"Where is Ann{i}?,Rome,Ann{i},city" for i in range(10)]
    (tmp_path / "own.csv").write_text("\n".join(["question,answer,subject,relation", *lines]))
    console.note.cache_clear()
    flags = ["--model.name", str(tmp_path / "model"), "--facts.source", "table", "--out", str(tmp_path)]
    assert command.main(["knockout", *flags, "--facts.path", str(tmp_path / "own.csv"), "--windows", "2"]) == 0
    assert "Layers 0 keep a state in its place" in " ".join(capsys.readouterr().err.split())
    rows = pq.read_table(tmp_path / "knockout.parquet").to_pydict()
    drop = dict(zip(rows["layers"], rows["drop"], strict=True))
    assert drop["0"] == 0 and drop["1"] == drop["0-1"] != 0


def test_of_a_model_whose_layers_all_attend_nothing_is_said(llama, words, capsys):
    mediation.say_where(LanguageModel(llama, words, "llama"))
    assert capsys.readouterr().err == ""
