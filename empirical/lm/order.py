"""Which examples a step trains on, and in which forward passes.

Batches are a function of (seed, epoch) alone, never of what was drawn before, so that a resumed run sees the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from empirical import processes
from empirical.lm import batch, memory
from empirical.lm.prompts import Encoded
from empirical.lm.train_config import TrainConfig


def n_steps(config: TrainConfig, n_examples: int) -> int:
    """Return the number of optimizer steps."""
    return config.steps or config.epochs * math.ceil(n_examples / config.batch_size)


def batch_rows(lengths: Sequence[int], config: TrainConfig, step: int, *, seed: int) -> Int[np.ndarray, " row"]:
    """Return the examples of a step: each once an epoch, in an order drawn from (seed, epoch).

    Inside each window of `length_window` batches the examples are sorted by length; then batches are shuffled. The
    last batch of an epoch may be smaller.
    """
    n, size = len(lengths), config.batch_size
    epoch, place = divmod(step, math.ceil(n / size))
    rng = np.random.default_rng([seed, 7, epoch])
    order = rng.permutation(n)
    if config.length_window > 1:
        window = size * config.length_window
        by_length = np.asarray(lengths)[order]
        order = np.concatenate(
            [order[i : i + window][np.argsort(by_length[i : i + window], kind="stable")] for i in range(0, n, window)]
        )
    batches = [order[i : i + size] for i in range(0, n, size)]
    return batches[rng.permutation(len(batches))[place]]


def in_memory(config: TrainConfig, model: Any, examples: Sequence[Encoded]) -> TrainConfig:
    """Return the config with as many tokens per forward pass as memory holds of such examples, if none are given."""
    lengths = [len(example.tokens) for example in examples]
    scored = [len(example.completion) for example in examples]
    rows = config.micro_batch_size or config.batch_size
    options: dict[str, Any] = {"trains": True, "recomputes": config.gradient_checkpointing}
    options["n_shares"] = processes.count() if config.shard else 1
    tokens = memory.tokens(model, config.micro_batch_tokens, lengths, scored, rows=rows, **options)
    return replace(config, micro_batch_tokens=processes.least(tokens))


def passes(examples: Sequence[Encoded], config: TrainConfig, *, is_packed: bool = False) -> list[list[Encoded]]:
    """Return examples of one device by forward pass, in their order."""
    lengths = [len(example.tokens) for example in examples]
    tokens = batch.TOKENS if config.micro_batch_tokens is None else config.micro_batch_tokens
    rows = config.micro_batch_size or config.batch_size
    batches = batch.in_turn(lengths, rows=rows, tokens=tokens, is_packed=is_packed)
    return [[examples[row] for row in own] for own in batches]
