"""What a model's weights, its training and its batches take of memory, by its config alone, and what would fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from core.errors import InputError
from empirical import finetune, processes
from empirical.config import Config
from empirical.lm import files, memory, sharded
from empirical.lm import model as models
from empirical.lm.model import ModelConfig
from empirical.lm.prompts import Encoded

CHANGES: dict[str, tuple[str, str, Any]] = {
    "--finetune.train.gradient-checkpointing": ("train", "gradient_checkpointing", True),
    "--finetune.method lora": ("finetune", "method", "lora"),
    "--model.precision bfloat16": ("model", "precision", "bfloat16"),
}
"""Settings that take less memory: what a user would try, in this order, and then several of them."""
SHARING = "--finetune.train.shard"
"""What comes before them where there are several processes."""
QUANTISING = "--model.quantise nf4"
"""What comes after them on a GPU: the base is another model then."""
HALF_A_BYTE = 0.5
"""What a weight of 4 bits takes; its share of the scales, an eighth of a bit, is not counted."""


@dataclass(frozen=True)
class Texts:
    """How long the texts are that a model reads at once, in tokens."""

    rows: int
    longest: int
    scored: int
    """Places of the longest at which logits are wanted."""

    @property
    def share(self) -> float:
        """Of the tokens, at which logits are wanted."""
        return self.scored / max(self.longest, 1)


NOTHING = Texts(0, 0, 0)


def texts(encoded: Sequence[Encoded], rows: int) -> Texts:
    """Return how long these are at most, where so many are read at once."""
    longest = max(len(one.tokens) for one in encoded)
    return Texts(min(rows, len(encoded)), longest, max(len(one.completion) for one in encoded))


@dataclass(frozen=True)
class Room:
    """What a model and its training take, and what there is."""

    n_parameters: int
    n_trained: int
    weights: int
    """Bytes of the weights."""
    training: int
    """Bytes of what training them keeps beside: gradients and moments, and an adapter's weights. Of a model that is
    shared out: what one process takes more than all of the weights, which it holds before and after."""
    checkpoint: int
    """Bytes of a checkpoint."""
    free: int
    """Bytes that the device can still hold."""
    network: Any
    """The model, on no device."""
    config: Config

    def reading(self, at_once: Texts, given: int | None) -> int:
        """Return the bytes that reading such texts takes at most, the weights included."""
        per_token = memory.per_token(self.network, at_once.share, trains=False)
        return self.weights + round(per_token * _tokens(at_once, given, self.free - self.weights, per_token))

    def tuning(self, at_once: Texts) -> int:
        """Return the bytes that training on such texts takes at most, all included; less than one is never read."""
        return self.weights + self.training + round(self._trained_token(at_once) * self.at_once(at_once))

    def at_once(self, at_once: Texts) -> int:
        """Return how many tokens of such texts training reads at once at most."""
        given, left = self.config.finetune.train.micro_batch_tokens, self.free - self.weights - self.training
        return _tokens(at_once, given, left, self._trained_token(at_once))

    def fitting(self, at_once: Texts) -> int:
        """Return how many it would read if nothing were said."""
        left = self.free - self.weights - self.training
        return _tokens(at_once, None, left, self._trained_token(at_once))

    def least(self, at_once: Texts) -> int:
        """Return the bytes that training takes where one text is read at a time."""
        return self.weights + self.training + round(self._trained_token(at_once) * at_once.longest)

    def _trained_token(self, at_once: Texts) -> float:
        recomputes = self.config.finetune.train.gradient_checkpointing
        return memory.per_token(self.network, at_once.share, trains=True, recomputes=recomputes)


def _tokens(at_once: Texts, given: int | None, free: int, per_token: float) -> int:
    """Return how many tokens are read at once at most."""
    most = memory.fitting(max(free, 0), per_token) if given is None else given
    return max(at_once.longest, min(most, at_once.rows * at_once.longest))


def of(config: Config, model: ModelConfig) -> Room:
    """Return what a model takes by its config, its weights not being needed.

    Raises:
        InputError: the config cannot be had, or is of no architecture that can be built from it.
    """
    name = model.name
    try:
        settings = AutoConfig.from_pretrained(files.converted(name) or name, revision=model.revision)
        with torch.device("meta"):
            network: Any = models.auto_class(settings).from_config(settings, dtype=models.dtype(model.precision))
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"{name}: its config cannot be read ({str(error).strip().splitlines()[0]}).\n"
            "Name a checkpoint folder, or a hub id that is cached or can be reached."
        ) from error
    n_parameters = n_trained = network.num_parameters()
    is_adapter, size = config.finetune.method == "lora", models.dtype(model.precision).itemsize
    weights = size * n_parameters - round((size - HALF_A_BYTE) * _quantised(network)) * (model.quantise is not None)
    if is_adapter:
        with torch.device("meta"):
            network = finetune.with_adapter(config.finetune.lora, network, name)
        n_trained = network.get_nb_trainable_parameters()[0]
    # A gradient and two moments of each trained weight; an adapter is in float32, and comes on top.
    training = 16 * n_trained if is_adapter else 3 * size * n_trained
    checkpoint = 3 * (4 if is_adapter else size) * n_trained
    if config.finetune.train.shard:
        training = _shared_out(network, size * n_parameters, training, size)
    free = memory.free(models.device())
    return Room(n_parameters, n_trained, weights, training, checkpoint, free, network, config)


def _quantised(network: Any) -> int:
    """Return how many weights are read in 4 bits where a model is: those of all linear layers but the head."""
    head = network.get_output_embeddings()
    layers = (one for one in network.modules() if isinstance(one, torch.nn.Linear | Conv1D) and one is not head)
    return sum(layer.weight.numel() for layer in layers)


def _shared_out(network: Any, weights: int, training: int, size: int) -> int:
    """Return the bytes that a process needs beside all of the weights, where training shares them out.

    In training it has its share, and the weights and gradients of the layers at work; at its end the weights are
    gathered, while it has its share of them.
    """
    n = processes.count()
    at_work = 2 * size * sharded.n_whole(network)
    return max((weights + training) // n + at_work, weights + weights // n) - weights


def remedy(config: Config, model: ModelConfig, at_once: Texts = NOTHING) -> str | None:
    """Return flags with which training would fit into memory, the fewest; None where it does not with any.

    Args:
        at_once: The longest texts, where they are known.
    """
    changes = {**CHANGES, SHARING: ("train", "shard", True), QUANTISING: ("model", "quantise", "nf4")}
    names = tuple(CHANGES)
    tried = [(names[0],), (names[1],), names[:2], names[1:], names]
    if processes.count() > 1:
        tried = [(SHARING,), *tried, *((SHARING, *chosen) for chosen in tried)]
    # Neither shared out nor given from arm to arm are weights of 4 bits.
    if models.device().type == "cuda" and not (config.finetune.train.shard or config.mediation.pairs):
        tried += [(*chosen, QUANTISING) for chosen in ((names[1],), names[:2], names[1:], names)]
    for chosen in tried:
        changed, other, flags = config, model, []
        for name in chosen:
            before = changed, other
            changed, other = _changed(changed, other, *changes[name])
            flags += [name] if before != (changed, other) else []
        if flags and (found := of(changed, other)).least(at_once) <= found.free:
            return " ".join(flags)
    return None


def _changed(config: Config, model: ModelConfig, part: str, name: str, value: Any) -> tuple[Config, ModelConfig]:
    if part == "model":
        return config, replace(model, **{name: value})
    tuning = config.finetune
    tuning = (
        replace(tuning, train=replace(tuning.train, **{name: value}))
        if part == "train"
        else replace(tuning, **{name: value})
    )
    return replace(config, finetune=tuning), model


def check(config: Config, model: ModelConfig, *, trains: bool = True) -> None:
    """Raise InputError where a model cannot be trained as it is read, or memory cannot hold it, before it is loaded.

    What batches take is not counted: they are made as small as they must be. Nothing is said of a model whose config
    does not tell: of an adapter to be read, of quantised weights, of one that cannot be had.
    """
    if trains and model.quantise and config.finetune.method == "full":
        raise InputError(
            "--model.quantise: weights of 4 bits are not trained.\nAdd --finetune.method lora, or leave the flag."
        )
    if trains and config.finetune.method == "lora" and files.is_adapter(model.name):
        raise InputError(
            f"{model.name} is an adapter: it is finetuned further with all weights, its own added to them.\n"
            "Leave --finetune.method lora, or name a folder in which it is added to its base (peft: merge_and_unload)."
        )
    try:
        room = of(config, model)
    except InputError:
        return
    needed = room.weights + (room.training if trains else 0)
    if getattr(room.network.config, "quantization_config", None) or needed <= room.free:
        return
    raise InputError(short(room, model, needed, remedy(config, model) if trains else None))


def short(room: Room, model: ModelConfig, needed: int, flags: str | None) -> str:
    """Return what to say of too little memory, and what would fit."""
    where = "this machine" if models.device().type == "cpu" else "the accelerator"
    told = f"{model.name}: {needed / 1e9:.1f} GB are needed, and {room.free / 1e9:.1f} GB of {where} are free.\n"
    return told + (f"It would fit with {flags}." if flags else "Take a smaller model, or more memory.")
