"""The tokenizers of published families, each on a small random model of its architecture: every stage and command.

They are fetched by `make tokenizers` into the folder that TOKENIZERS names; without it these tests skip themselves. The
rows are made up, and real ones too where POPQA, QUESTIONS (EntityQuestions) and MMLU name them.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from core import facts
from core.facts.record import Fact
from core.facts.request import Request
from empirical import __main__ as command
from empirical import attention, evaluate
from empirical.evaluate import EvaluateConfig
from empirical.lm import capture, reading, shape
from empirical.lm import model as models
from empirical.lm.model import LanguageModel, ModelConfig

PLACE = os.environ.get("TOKENIZERS", "")
pytestmark = pytest.mark.skipif(not PLACE, reason="TOKENIZERS names no folder of tokenizers: make tokenizers")
SUBJECTS = ("Zoë Å. O'Brien-Li", "Ann", "東京 Tower", "C++", "St. John's (1982)", "🙂 Bo", "Łódź", "McDonald")
FACTS = [
    Fact(str(i), name, "job", f"What is the job of {name}{', then' * (i % 3)}?", (answer,))
    for i, (name, answer) in enumerate(zip(SUBJECTS * 2, ("sea pilot", "Ökonom", "1984", "a") * 4, strict=True))
]
CHOICES = [
    Fact(f"c{i}", "", "cities", f"Which is largest{', say' * i}?", ("ABCD"[i],), choices=("Ulm", "Jena", "Hof", "Köln"))
    for i in range(4)
]
REAL: dict[facts.Source, str] = {"popqa": "POPQA", "entity_questions": "QUESTIONS"}
N_REAL = 20
"""Rows of each real source, spread over all of it."""


@dataclass(frozen=True)
class Family:
    """How an architecture's small model is made, the tokenizer it gets, and what its texts begin and end with."""

    make: Any
    tokenizer: str
    begin: str | None
    end: str
    modules: str = "all-linear"
    """The layers that get an adapter."""


def _with_images(sizes: dict[str, Any]) -> Any:
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"head_dim": 8, "sliding_window": 16}
    config = Gemma3Config(
        text_config=text, vision_config=seen | {"image_size": 8, "patch_size": 4}, mm_tokens_per_image=4
    )
    return Gemma3ForConditionalGeneration(config)


def _gpt2(sizes: dict[str, Any]) -> Any:
    shape_of = {"n_embd": sizes["hidden_size"], "n_layer": 2, "n_head": 4}
    more = {name: sizes[name] for name in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")}
    return GPT2LMHeadModel(GPT2Config(**shape_of, **more))


def _hybrid(sizes: dict[str, Any]) -> Any:
    experts: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    linear: dict[str, Any] = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
    linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16}
    kinds = ["linear_attention", "full_attention"]
    return Qwen3NextForCausalLM(Qwen3NextConfig(**sizes, **experts, **linear, head_dim=8, layer_types=kinds))


def _plain(model: Any, config: Any, **more: Any) -> Any:
    return lambda sizes: model(config(**sizes, **more))


LLAMA2, GPT2, QWEN = ("llama2", "<s>", "</s>"), ("gpt2", None, "<|endoftext|>"), ("qwen3", None, "<|im_end|>")
GEMMA = "gemma3", "<bos>", "<end_of_turn>"
FAMILIES = {
    "Llama 2": Family(_plain(LlamaForCausalLM, LlamaConfig), *LLAMA2),
    "Llama 3": Family(_plain(LlamaForCausalLM, LlamaConfig), "llama3_1", "<|begin_of_text|>", "<|eot_id|>"),
    "Mistral": Family(_plain(MistralForCausalLM, MistralConfig, sliding_window=16), "mistral_nemo", "<s>", "</s>"),
    "Qwen3": Family(_plain(Qwen3ForCausalLM, Qwen3Config, head_dim=8), *QWEN),
    "Gemma 3": Family(_plain(Gemma3ForCausalLM, Gemma3TextConfig, head_dim=8, sliding_window=16), *GEMMA),
    "Gemma 3 with images": Family(_with_images, *GEMMA),
    "Phi-3": Family(_plain(Phi3ForCausalLM, Phi3Config), *LLAMA2),
    "OLMo 2": Family(_plain(Olmo2ForCausalLM, Olmo2Config), "gpt35turbo", None, "<|endoftext|>"),
    "GPT-NeoX": Family(_plain(GPTNeoXForCausalLM, GPTNeoXConfig), *GPT2),
    "GPT-2": Family(_gpt2, *GPT2),
    "Qwen3-Next": Family(_hybrid, *QWEN, "q_proj v_proj"),
}
"""Those whose own tokenizer no package has get the nearest: Mistral another of its makers', OLMo 2 the one its own was
made from, Phi-3 Llama 2's, which its own extends, GPT-NeoX the one of GPT-2."""
COLUMNS = ("capture", "equal, full", "equal, LoRA", "letters equal")


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, dict[str, str]]]:
    """Return what is printed when all is done (by pytest -rP), a row for each family."""
    rows: dict[str, dict[str, str]] = {name: {} for name in FAMILIES}
    yield rows
    print("\n" + "".join(f"{cell:<22}" for cell in ("family", *COLUMNS)))
    for name, row in rows.items():
        print("".join(f"{cell:<22}" for cell in (name, *(row.get(column, "") for column in COLUMNS))))


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request, tmp_path_factory) -> tuple[str, LanguageModel]:
    """Return a family and its small model, read from a folder as a user's would be."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("model")
    for file in sorted((Path(PLACE) / family.tokenizer).glob("tokenizer*.json")):
        shutil.copy(file, folder)
    words: Any = AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": len(words), "initializer_range": 0.2}
    sizes |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    if request.param == "GPT-NeoX":
        del sizes["num_key_value_heads"]
    torch.manual_seed(0)
    family.make(sizes).save_pretrained(folder)
    return request.param, models.load(ModelConfig(str(folder)))


def _spread(found: tuple[Fact, ...], n: int) -> list[Fact]:
    return [found[row] for row in np.linspace(0, len(found) - 1, n).astype(int).tolist()]


@pytest.fixture(scope="module")
def asked() -> list[Fact]:
    """Return made-up questions, and real ones where there are any."""
    paths: dict[facts.Source, Path] = {
        source: Path(os.environ[name]) for source, name in REAL.items() if os.environ.get(name)
    }
    real = {source: facts.read(source, Request(path, "dev")).facts for source, path in paths.items()}
    return FACTS + [fact for found in real.values() for fact in _spread(found, N_REAL) if fact.subject]


@pytest.fixture(scope="module")
def choices() -> list[Fact]:
    """Return likewise questions of multiple choice, no longer than the smallest model's positions."""
    if not os.environ.get("MMLU"):
        return CHOICES
    found = facts.read("mmlu", Request(Path(os.environ["MMLU"]), "test")).facts
    return CHOICES + [fact for fact in _spread(found, N_REAL) if len(fact.question) < 1500]


def test_prompt_answer_beginning_end_and_subject_are_where_they_belong(loaded, asked):
    family, model = FAMILIES[loaded[0]], loaded[1]
    words, raw = model.tokenizer, {"clean_up_tokenization_spaces": False}
    begin = [] if family.begin is None else [words.convert_tokens_to_ids(family.begin)]
    for fact, one in zip(asked, model.format.ask(asked), strict=True):
        assert list(one.tokens[: len(begin)]) == begin and not set(begin) & set(one.tokens[len(begin) :])
        assert words.convert_ids_to_tokens(one.tokens[-1]) == family.end and one.tokens.count(one.tokens[-1]) == 1
        assert list(one.prompt) == words(f"Question: {fact.question}\nAnswer:")["input_ids"]
        assert words.decode(one.prompt[len(begin) :], **raw) == f"Question: {fact.question}\nAnswer:"
        assert words.decode(one.completion[:-1], **raw).strip() == fact.answers[0]
        subject = words.decode([token for token, inside in zip(one.prompt, one.spans[0], strict=True) if inside], **raw)
        assert fact.subject.casefold() in subject.casefold() and len(subject.strip()) <= len(fact.subject) + 2


def test_captured_attention_is_eager_attention(loaded, asked, told):
    name, model = loaded
    network: Any = model.network
    if shape.keeps_states(network):
        assert capture.refusal(network) is not None and capture.without_attention(network) == [0]
        told[name]["capture"] = "refused"
        return
    encoded = model.format.ask(asked)
    batches = [encoded[start : start + 8] for start in range(0, len(encoded), 8)]
    given = [reading.read(network, own, model.pad) for own in batches]
    mass = np.concatenate([attention.masses(model, one, grams={})["mass"] for one in given])
    network.set_attn_implementation("eager")
    try:
        errors = [np.abs(mass[row, 0] - _eager(network, one)).max() for row, one in enumerate(encoded)]
    finally:
        network.set_attn_implementation("sdpa")
    told[name]["capture"] = f"{max(errors):.1e}"
    assert max(errors) < 1e-5


def _eager(network: Any, one: Any) -> np.ndarray:
    """Return the attention from the prompt's last token to each span, by layer and head."""
    with torch.no_grad():
        weights = network(torch.tensor([one.prompt]), output_attentions=True).attentions
    return (torch.stack([layer[0, :, -1] for layer in weights]) @ torch.as_tensor(one.spans).float().T).numpy()


def test_letters_in_batches_are_those_one_by_one(loaded, choices, told):
    name, model = loaded
    encoded = model.format.ask(choices)
    together = evaluate.answer(EvaluateConfig(), model, choices, encoded)
    alone = evaluate.answer(EvaluateConfig(batch_size=1), model, choices, encoded)
    told[name]["letters equal"] = _share(together.predicted, alone.predicted)
    assert together.predicted == alone.predicted
    np.testing.assert_allclose(together.logprob, alone.logprob, atol=1e-3)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_commands_score_finetune_evaluate_and_measure_attention(loaded, method, asked, told, tmp_path, capsys):
    name, model = loaded
    columns = ("question", "answers", "subject", "relation")
    lines = [json.dumps({column: getattr(fact, column) for column in columns}) for fact in asked]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def run(which: str, of: str, out: str, *flags: str) -> int:
        given = ["--model.name", of, "--facts.source", "table", "--facts.path", str(tmp_path / "questions.jsonl")]
        given += ["--out", str(tmp_path / out), "--knownness.measure", "logprob", "--knownness.shots", "2"]
        return command.main([which, *given, "--knownness.n-prompts", "1", "--evaluate.max-new-tokens", "4", *flags])

    assert run("score", model.name, "out") == 0
    scored = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert len(scored["knownness"]) == len(asked) and max(scored["knownness"]) < 0
    training = ["--arm", "whole", "--finetune.method", method, "--finetune.train.epochs", "8"]
    training += ["--finetune.learning-rates", "1e-2", "--finetune.lora.modules", *FAMILIES[name].modules.split()]
    assert run("finetune", model.name, "out", *training) == 0
    tuned, found = str(tmp_path / "out" / "whole"), {}
    for rows in ("64", "1"):
        assert run("evaluate", tuned, rows, "--which", "all", "--evaluate.batch-size", rows) == 0
        found[rows] = pq.read_table(tmp_path / rows / "answers.parquet").to_pydict()
    assert run("evaluate", model.name, "base", "--which", "all") == 0
    before = pq.read_table(tmp_path / "base" / "answers.parquet").to_pydict()
    told[name][f"equal, {'LoRA' if method == 'lora' else method}"] = _share(
        *(one["predicted"] for one in found.values())
    )
    assert found["64"]["predicted"] == found["1"]["predicted"]
    taught = np.array(found["64"]["is_trained"])
    assert np.mean(found["64"]["answer_logprob"], where=taught) > np.mean(before["answer_logprob"], where=taught)
    capsys.readouterr()
    has_state = shape.keeps_states(model.network)
    assert run("attention", tuned, "attention") == (2 if has_state else 0)
    assert ("cannot be captured" in capsys.readouterr().err) == has_state


def _share(some: list[str], others: list[str]) -> str:
    """Return how many of the answers are equal, of how many."""
    return f"{sum(a == b for a, b in zip(some, others, strict=True))}/{len(some)}"
