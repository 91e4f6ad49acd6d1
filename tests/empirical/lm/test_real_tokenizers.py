"""The tokenizers of published families, each on a small random model of its architecture: every stage, on made-up rows.

They are fetched by `make tokenizers` into the folder that TOKENIZERS names; without it these tests skip themselves.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.facts.record import Fact
from empirical import attention, evaluate, finetune, knownness
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import capture, reading
from empirical.lm import model as models
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.train import TrainConfig

PLACE = os.environ.get("TOKENIZERS", "")
pytestmark = pytest.mark.skipif(not PLACE, reason="TOKENIZERS names no folder of tokenizers: make tokenizers")
SUBJECTS = ("Zoë Å. O'Brien-Li", "Ann", "東京 Tower", "C++", "St. John's (1982)", "🙂 Bo", "Łódź", "McDonald")
FACTS = [
    Fact(str(i), name, "job", f"What is the job of {name}{', then' * (i % 3)}?", (answer,))
    for i, (name, answer) in enumerate(zip(SUBJECTS * 2, ("sea pilot", "Ökonom", "1984", "a") * 4, strict=True))
]
ASKED = EvaluateConfig(max_new_tokens=4)


@dataclass(frozen=True)
class Family:
    """How an architecture's small model is made, and what its texts begin and end with."""

    make: Any
    begin: str | None
    end: str


FAMILIES = {
    "llama2": Family(lambda sizes: LlamaForCausalLM(LlamaConfig(**sizes)), "<s>", "</s>"),
    "llama3_1": Family(lambda sizes: LlamaForCausalLM(LlamaConfig(**sizes)), "<|begin_of_text|>", "<|eot_id|>"),
    "gemma3": Family(
        lambda sizes: Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8, sliding_window=16)),
        "<bos>",
        "<end_of_turn>",
    ),
    "qwen3": Family(lambda sizes: Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8)), None, "<|im_end|>"),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request, tmp_path_factory) -> tuple[Family, LanguageModel]:
    """Return a family and its small model, read from a folder as a user's would be."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    for file in sorted((Path(PLACE) / request.param).glob("tokenizer*.json")):
        shutil.copy(file, folder)
    words: Any = AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": len(words), "initializer_range": 0.2}
    sizes |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": None}
    torch.manual_seed(0)
    family.make(sizes).save_pretrained(folder)
    return family, models.load(ModelConfig(str(folder)))


def test_prompt_answer_beginning_end_and_subject_are_where_they_belong(loaded):
    family, model = loaded
    words = model.tokenizer
    begin = [] if family.begin is None else [words.convert_tokens_to_ids(family.begin)]
    for fact, one in zip(FACTS, model.format.ask(FACTS), strict=True):
        assert list(one.tokens[: len(begin)]) == begin and not set(begin) & set(one.tokens[len(begin) :])
        assert words.convert_ids_to_tokens(one.tokens[-1]) == family.end and one.tokens.count(one.tokens[-1]) == 1
        assert list(one.prompt) == words(f"Question: {fact.question}\nAnswer:")["input_ids"]
        assert words.decode(one.prompt[len(begin) :]) == f"Question: {fact.question}\nAnswer:"
        assert words.decode(one.completion[:-1]).strip() == fact.answers[0]
        subject = words.decode([token for token, inside in zip(one.prompt, one.spans[0], strict=True) if inside])
        assert fact.subject in subject and len(subject.strip()) <= len(fact.subject) + 2


def test_captured_attention_is_eager_attention(loaded):
    _, model = loaded
    encoded = model.format.ask(FACTS)
    grams = capture.weighing(model.network)
    mass = attention.masses(model, reading.read(model.network, encoded, model.pad), grams=grams)["mass"]
    network: Any = model.network
    network.set_attn_implementation("eager")
    try:
        errors = [np.abs(mass[row, 0] - _eager(network, one)).max() for row, one in enumerate(encoded)]
    finally:
        network.set_attn_implementation("sdpa")
    print(f"{model.name}: largest error {max(errors):.1e}")  # shown by pytest -rP
    assert max(errors) < 1e-5


def _eager(network: Any, one: Any) -> np.ndarray:
    """Return the attention from the prompt's last token to each span, by layer and head."""
    with torch.no_grad():
        weights = network(torch.tensor([one.prompt]), output_attentions=True).attentions
    return (torch.stack([layer[0, :, -1] for layer in weights]) @ torch.as_tensor(one.spans).float().T).numpy()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_finetuned_model_answers_in_batches_as_one_by_one_and_has_learnt_its_answers(loaded, method, tmp_path):
    base = models.load(ModelConfig(loaded[1].name))
    asked = KnownnessConfig(measure="logprob", shots=2, n_prompts=1)
    assert np.isfinite(knownness.score(asked, base, FACTS, FACTS, seed=0).value).all()
    before = evaluate.answer(ASKED, base, FACTS, base.format.ask(FACTS, new_tokens=4)).logprob.mean()
    config = FinetuneConfig(method=method, train=TrainConfig(epochs=8, batch_size=8, n_records=1))
    options: dict[str, Any] = {"seed": 0, "work": tmp_path, "evaluate": lambda network: {}, "learning_rate": 1e-2}
    tuned, trace = finetune.run(config, base, base.format.ask(FACTS), **options)
    models.save(tuned, tmp_path / "tuned")
    found = models.load(ModelConfig(str(tmp_path / "tuned")))
    encoded = found.format.ask(FACTS, new_tokens=4)
    together = evaluate.answer(ASKED, found, FACTS, encoded)
    alone = [
        evaluate.answer(ASKED, found, [fact], [one]).predicted[0] for fact, one in zip(FACTS, encoded, strict=True)
    ]
    same = np.mean([a == b for a, b in zip(together.predicted, alone, strict=True)])
    right = together.exact_match.mean()
    print(f"{found.name}: {method}, loss {trace[-1]['loss']:.3f}, equal {same:.3f}, right {right:.3f}")
    assert same == 1 and together.logprob.mean() > before
