"""How many tokens a model reads at once where nothing is said: as many as half of the free memory holds, at most.

An estimate, from the widths of the model's layers: half is left for what it does not count. Less memory gives smaller
batches and, but for rounding, the same numbers; what is drawn at random is drawn batch by batch, and is other.
"""

from collections.abc import Sequence
from typing import Any

import psutil
import torch
from transformers.pytorch_utils import Conv1D

from core.console import note
from empirical import processes
from empirical.lm import batch, shape
from empirical.lm.shape import Model

KEPT = 4
"""Numbers that a pass keeps for each output of a linear layer where gradients are wanted: 2 to 4.6 are measured."""
LOGITS = {False: 12, True: 16}
"""Bytes for each logit: in the model's precision, in float32, its logarithm, and with gradients those too."""


def fitting(n_bytes: int | float, per_token: float) -> int:
    """Return how many tokens a batch may have where nothing is said: what half of so many bytes holds, rounded down.

    A power of two, `batch.TOKENS` at most.
    """
    return min(batch.TOKENS, 1 << max(int(n_bytes / 2 / per_token).bit_length() - 1, 0))


def tokens(
    model: Model,
    given: int | None,
    lengths: Sequence[int],
    scored: Sequence[int],
    *,
    rows: int,
    trains: bool = False,
    recomputes: bool = False,
    n_shares: int = 1,
) -> int:
    """Return the most tokens of a batch: those given, else `batch.TOKENS`, or the power of two that memory holds.

    A note says so where that makes batches smaller.

    Args:
        lengths: Of all rows, in tokens.
        scored: Of each row, at how many places logits are wanted.
        rows: Most rows of a batch.
        trains: Whether gradients are wanted.
        recomputes: Whether activations are computed again in the backward pass.
        n_shares: Over how many processes gradients and moments are shared out.
    """
    if given is not None:
        return given
    share = max((n / length for n, length in zip(scored, lengths, strict=True)), default=0.0)
    most = fitting(_free(model, trains, n_shares), per_token(model, share, trains=trains, recomputes=recomputes))
    widest = min(rows, len(lengths)) * max(lengths, default=0)
    if most < min(widest, batch.TOKENS):
        note(f"Half of the free memory holds some {most:,} tokens of the model at once: wider batches are cut to that.")
    return most


def per_token(model: Model, share: float, *, trains: bool, recomputes: bool = False) -> float:
    """Return how many bytes a token of a batch takes, about.

    Args:
        share: Of the tokens, at which logits are wanted.
    """
    config, size = shape.text(model), model.dtype.itemsize
    decoder: torch.nn.Module = model.get_decoder()
    # An adapter's layers are slim, and what they give is added to another one's.
    own = (layer for name, layer in decoder.named_modules() if ".lora_" not in name)
    layers = [layer for layer in own if isinstance(layer, torch.nn.Linear | Conv1D)]
    width = sum(layer.nf if isinstance(layer, Conv1D) else layer.out_features for layer in layers)
    head: Any = model.get_output_embeddings()
    logits = share * head.weight.shape[0] * LOGITS[trains]
    n_layers, n_heads = shape.n_layers(model), shape.n_heads(model)
    if trains and recomputes:  # what enters each layer, and one layer at a time
        return (n_layers * config.hidden_size + KEPT * width / n_layers) * size + logits
    if trains:
        return KEPT * width * size + logits
    groups = getattr(config, "num_key_value_heads", None) or n_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    keys_and_values = 2 * n_layers * groups * d_head  # kept, and copied where more are added
    return (2 * keys_and_values + KEPT * width / n_layers) * size + logits


def free(device: torch.device) -> int:
    """Return how many bytes the device can still hold for this process."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available // processes.count()


def _free(model: Model, trains: bool, n_shares: int) -> int:
    """Return likewise what is free once gradients and moments are there, of what is trained if anything is."""
    trained = (value for value in model.parameters() if value.requires_grad) if trains else ()
    return max(0, free(model.device) - sum(3 * value.numel() * value.element_size() for value in trained) // n_shares)
