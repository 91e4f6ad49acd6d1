"""The settings of the training loop, and what is refused of them."""

from dataclasses import dataclass
from typing import Literal

from core.config_json import setting
from core.errors import InputError
from empirical import processes


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which steps a model is finetuned."""

    epochs: int = 6
    """Number of passes over the arm's facts."""
    steps: int | None = setting(None, is_later=True)
    """Number of optimizer steps, whatever the epochs. Not given: as many as those make."""
    batch_size: int = 32
    """Number of facts per step, over all devices."""
    micro_batch_size: int | None = None
    """Number of facts per forward pass of one device; gradients are accumulated. Not given: all facts of the step."""
    micro_batch_tokens: int | None = setting(None, is_later=True)
    """Number of tokens per forward pass of one device, padding included: where facts are long, it takes several. Not
    given: 16,384, or fewer where the free memory holds fewer."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warmup: float = 0.1
    """Share of the steps during which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_gradient_norm: float = 1.0
    """Norm to which gradients are clipped."""
    length_window: int = 4
    """Number of batches within which facts are sorted by length, so that there is little padding; 1: not sorted."""
    packing: bool = setting(False, is_later=True)
    """Read the facts of a forward pass in one row without padding, each attending to itself alone: worth it where
    lengths differ."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: it takes less memory and a third more time."""
    shard: bool = setting(False, is_later=True)
    """Share the model out over the processes that torchrun starts: of N each holds 1/N of weights, gradients and
    moments while it trains, and gathers a layer's weights when it computes with them. The numbers stay as they are."""
    compile: bool = setting(False, is_later=True)
    """Compile the model's layers for the steps (torch.compile): the first steps take minutes, later ones launch fewer
    kernels, which is for a GPU that waits for them. The numbers stay as they are but for rounding. Needs a C++
    compiler, on a GPU Triton too; not with packing, gradient-checkpointing, shard or a quantised base."""
    checkpoint_every: int = 100
    """Number of steps between checkpoints. After two minutes there is one anyway, or as often as that takes a twentieth
    of the time; an interrupted training goes on from the last one."""
    n_records: int = 6
    """Number of points in the training trace, besides its start."""
    tensorboard: bool = False
    """Write the loss for TensorBoard too (needs the package tensorboard)."""


def check(config: TrainConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for name in ("epochs", "batch_size", "length_window", "checkpoint_every", "n_records"):
        if (value := getattr(config, name)) < 1:
            raise InputError(f"--finetune.train.{name.replace('_', '-')} is {value}: it must be at least 1.")
    for name in ("steps", "micro_batch_size", "micro_batch_tokens"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise InputError(f"--finetune.train.{name.replace('_', '-')} is {value}: it must be at least 1.")
    if not 0 <= config.warmup < 1:
        raise InputError(f"--finetune.train.warmup is {config.warmup}: it must be at least 0 and below 1.")
    if config.weight_decay < 0 or config.max_gradient_norm <= 0:
        raise InputError("--finetune.train: weight-decay must be at least 0 and max-gradient-norm above 0.")
    if config.compile:
        _check_compiled(config)
    if config.shard and processes.asked_for() == 1:
        raise InputError(
            "--finetune.train.shard shares a model out over several processes, and this is one.\n"
            "Start them with torchrun --nproc_per_node N -m empirical finetune ..., or leave the flag."
        )


def _check_compiled(config: TrainConfig) -> None:
    reasons = {
        "packing": "how many tokens a row takes apart is known only when it is read",
        "gradient_checkpointing": "PyTorch may take what it kept of a model with another rate of dropout",
        "shard": "that was not tested",
    }
    for name, reason in reasons.items():
        if getattr(config, name):
            raise InputError(
                f"--finetune.train.compile does not go with --finetune.train.{name.replace('_', '-')}: {reason}.\n"
                "Leave one of them."
            )
