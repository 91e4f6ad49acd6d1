"""What `python -m benchmarks lm` times: the language-model flow's own stages, and what does the same otherwise."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import finetuning
from core.errors import InputError
from core.facts.record import Fact
from empirical import attention, evaluate, finetune, knownness, mediation
from empirical import facts as sources
from empirical.evaluate import EvaluateConfig
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import batch, capture, cost, prefix, shape, tokenizer
from empirical.lm import model as models
from empirical.lm.cost import Meter
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.prompts import Encoded
from empirical.lm.train_config import TrainConfig
from empirical.mediation import Asked
from empirical.worlds import corpus, world
from empirical.worlds.world import WorldConfig

_LLAMA = {"vocab_size": 32_000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        **{"model_type": "llama", "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 384},
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    },
    "llama-2-7b": {"model_type": "llama", "intermediate_size": 11_008, "num_key_value_heads": 32, **_LLAMA},
    "mistral-7b": {"model_type": "mistral", "intermediate_size": 14_336, "num_key_value_heads": 8, **_LLAMA},
}
"""Shapes that are timed with random weights: the small Llama of the studies, Llama-2-7B and Mistral-7B."""
LARGE = ("llama-2-7b", "mistral-7b")
"""Of these an adapter is trained, of the others every weight."""
VOCABULARY = 2000
"""Tokens of the tokenizer of models with random weights, trained on the questions' world."""
NEW_TOKENS = 16
"""Tokens of an answer at most."""
SHOTS = 5
TUNED_STEPS, TUNED_RATE = 8, 3e-5
"""Steps of 32 questions, and their rate, after which a published model's answers end."""
EVALUATION = EvaluateConfig(max_new_tokens=NEW_TOKENS, batch_size=256)
"""How questions are answered, by either program: `generate` takes as long with 64 at once."""

COMPILED = "empirical, compiled"
"""Finetuning with `--finetune.train.compile`."""
OURS = {"finetuning": "empirical", "scoring": "empirical", "evaluation": "empirical", "capture": "answers scored alone"}
"""The program of each part that the others are compared with."""
PARTS: dict[str, tuple[str, ...]] = {
    "finetuning": ("empirical", COMPILED, "TRL, as it comes", "TRL, packed"),
    "scoring": ("empirical", "without the shared prefix"),
    "evaluation": ("empirical", "generate, file order"),
    "capture": ("answers scored alone", "attention captured", "knockout"),
}
"""What is timed, and by which programs."""


@dataclass(frozen=True)
class Sizes:
    """How much is timed."""

    questions: int
    steps: int
    batch: int
    words: int
    """Words put before each question."""
    repeats: int
    facts: FactsConfig = field(default_factory=FactsConfig)
    """Where the questions come from."""

    @property
    def most(self) -> int:
        """Questions that any part needs."""
        return max(self.questions + TUNED_STEPS * 32, self.steps * self.batch)


@dataclass(frozen=True)
class Timed:
    """What a program took."""

    n_facts: int
    n_tokens: int
    """Padding apart; of other programs' finetuning those of our questions and answers."""
    flops: int
    seconds: float
    processor_seconds: float
    """Of this process's threads together: what other work beside it does not lengthen."""
    first_seconds: float | None = None
    """Of finetuning: until its first step is done, an adapter made and layers compiled."""


class Clocks:
    """Seconds of the wall and of the processor between calls."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.tell()

    def tell(self, *_: Any) -> None:
        """Begin the next stretch, once the device is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))

    def median(self) -> tuple[float, float]:
        """Return the median stretch on both clocks, each by itself."""
        wall, processor = np.median(np.diff(np.array(self.times), axis=0), axis=0)
        return float(wall), float(processor)


def load(name: str) -> LanguageModel:
    """Return a model by its shape, with random weights, or from its checkpoint; as it would be finetuned."""
    if name not in SHAPES:
        resolved = models.resolved("auto", trains_all=True)
        return models.load(ModelConfig(name, precision=resolved))
    told = world.build(WorldConfig(n_subjects=200), seed=0)
    words = tokenizer.train(corpus.vocabulary(told), size=VOCABULARY)
    precision = models.resolved("auto", trains_all=name not in LARGE)
    ids: dict[str, Any] = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    ids |= {"pad_token_id": words.pad_token_id, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    with torch.device(models.device()):
        config = AutoConfig.for_model(**SHAPES[name], **ids)
        network = AutoModelForCausalLM.from_config(config, dtype=models.dtype(precision))
    return LanguageModel(network.eval(), words, name, is_mixed=precision == "mixed")


def questions(sizes: Sizes, n: int) -> list[Fact]:
    """Return so many questions drawn from the file or a synthetic world, none twice, each after so many words.

    Those that are asked stand in the file's order, the rest in any.

    Raises:
        InputError: the file cannot be read, or has fewer.
    """
    given = sources.load(sizes.facts) or world.build(WorldConfig(n_subjects=n), seed=0).fact_set()
    if len(given.facts) < n:
        raise InputError(f"--facts.path {sizes.facts.path}: it has {len(given.facts)} questions, and {n} are needed.")
    text = " ".join(fact.question for fact in given.facts[: 10 * n]).split() * (1 + sizes.words // 100)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(given.facts))[:n]
    rows[: sizes.questions].sort()
    asked = []
    for fact in (given.facts[row] for row in rows):
        first = int(rng.integers(max(1, len(text) - sizes.words)))
        before = " ".join(text[first : first + sizes.words])
        asked.append(replace(fact, question=f"{before} {fact.question}".strip()))
    return asked


def timed(model: LanguageModel, sizes: Sizes, part: str, program: str) -> Timed:
    """Return what a program took, once warm; it may leave the process as no other program should find it."""
    if part == "finetuning":
        return _finetuning(model, sizes, program)
    facts = questions(sizes, sizes.questions + TUNED_STEPS * 32)
    asked, pool = facts[: sizes.questions], facts[sizes.questions :]
    model = models.measured(_tuned(model, pool) if part == "evaluation" else model)
    encoded = model.format.ask(asked)
    if program == "without the shared prefix":
        prefix.MIN_LENGTH = 1 << 30
    work = _reading(model, part, program)
    few = slice(0, min(8, len(asked)))
    work(asked[few], encoded[few], pool)  # what only the first pass loads
    clocks = Clocks()
    for _ in range(sizes.repeats):
        work(asked, encoded, pool)
        clocks.tell()
    meter = Meter(model.network.device)
    meter.watch(model.network, model.pad)
    work(asked, encoded, pool)
    flops = cost.operations(model.network).forward(meter.seen)
    return Timed(len(asked), meter.seen.n_tokens, flops, *clocks.median())


Work = Callable[[Sequence[Fact], Sequence[Encoded], Sequence[Fact]], object]


def _reading(model: LanguageModel, part: str, program: str) -> Work:
    """Return what reads questions, given examples that may stand before them."""
    config = EVALUATION
    if part == "scoring":
        scoring = KnownnessConfig(measure="logprob", shots=SHOTS, n_prompts=1)
        return lambda asked, _, pool: knownness.score(scoring, model, asked, pool, seed=0)
    if part == "evaluation":
        own: Work = lambda asked, encoded, _: evaluate.predict(config, model, asked, encoded)  # noqa: E731
        return own if program == "empirical" else lambda _, encoded, __: in_file_order(model, encoded)
    if program == "knockout":
        layers = tuple(range(shape.n_layers(model.network)))
        return lambda _, encoded, __: mediation.cut(model, layers, Asked(config, encoded))
    if program == "attention captured":
        seen = partial(attention.masses, model, grams=capture.weighing(model.network))
        return lambda _, encoded, __: evaluate.each(config, model, encoded, seen)
    return lambda _, encoded, __: mediation.plain(model, Asked(config, encoded))


def in_file_order(model: LanguageModel, encoded: Sequence[Encoded]) -> list[list[int]]:
    """Return greedy answers by transformers' `generate`, padding on the left, as the questions come."""
    network: Any = model.network
    found = []
    size = EVALUATION.batch_size
    for first in range(0, len(encoded), size):
        padded = batch.pad_left([one.prompt for one in encoded[first : first + size]], model.pad)
        inputs = {"input_ids": padded.tokens.to(network.device), "attention_mask": padded.mask.to(network.device)}
        stop = sorted(model.format.stop)
        options = {"max_new_tokens": NEW_TOKENS, "eos_token_id": stop, "pad_token_id": model.pad}
        made = network.generate(**inputs, **options, do_sample=False)
        for row in made[:, padded.tokens.shape[1] :].tolist():
            found.append(row[: next((place for place, token in enumerate(row) if token in stop), len(row))])
    return found


def _tuned(model: LanguageModel, facts: Sequence[Fact]) -> LanguageModel:
    """Return the model once it knows how an answer ends."""
    encoded = model.format.encode([model.format.build(fact) for fact in facts])
    config = FinetuneConfig(method=_method(model), train=TrainConfig(epochs=1, n_records=1))
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"seed": 0, "work": Path(folder), "evaluate": lambda network: {}}
        return finetune.run(config, model, encoded, learning_rate=TUNED_RATE, **options)[0]


def _method(model: LanguageModel) -> Literal["full", "lora"]:
    return "lora" if model.name in LARGE else "full"


def _finetuning(model: LanguageModel, sizes: Sizes, program: str) -> Timed:
    """Return what steps took, the first left out, as if all were the median one."""
    facts = questions(sizes, sizes.steps * sizes.batch)
    asked = [model.format.build(fact) for fact in facts]
    encoded = model.format.encode(asked)
    method = _method(model)
    clocks = Clocks()
    with tempfile.TemporaryDirectory() as folder:
        if program in ("empirical", COMPILED):
            train = TrainConfig(epochs=1, batch_size=sizes.batch, n_records=1, compile=program == COMPILED)
            config = FinetuneConfig(method=method, train=train)
            options: dict[str, Any] = {"seed": 0, "work": Path(folder), "evaluate": lambda network: {}}
            options["progress"] = clocks.tell
            model = finetune.run(config, model, encoded, learning_rate=finetuning.RATE, **options)[0]
        else:
            if method == "lora":
                model = replace(model, network=finetune.with_adapter(finetune.Lora(), model.network, model.name))
            kind = "trl-packed" if program == "TRL, packed" else "trl"
            precision = "mixed" if model.is_mixed or model.network.dtype == torch.bfloat16 else "float32"
            finetuning.by_trl(sizes.batch, precision, kind, model, asked, Path(folder), clocks.tell)
    first = clocks.times[1][0] - clocks.times[0][0]
    del clocks.times[0]  # with the first step, loading ends
    n_steps = len(clocks.times)
    wall, processor = (n_steps * seconds for seconds in clocks.median())
    work = cost.of_training(encoded)
    flops = cost.operations(model.network).training(work)
    return Timed(len(encoded), work.n_tokens, flops, wall, processor, first)
