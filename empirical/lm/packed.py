"""Several texts in one row without padding: all layers but attention read tokens alone, so that padding costs nothing.

For attention the row is taken apart: each text is a row of its own there, in PyTorch's fused causal attention, and sees
itself alone. A mask over the whole row would be as wide as it is long.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from core.errors import InputError
from empirical.lm import capture, logits, shape
from empirical.lm.shape import Model

PACKED = "sdpa_packed"
"""Name under which transformers finds the attention function of this file; it has no mask function, so no mask."""


@contextmanager
def attention(model: Model) -> Iterator[None]:
    """Let the model read packed rows in the passes within, and in what backward passes compute again.

    Rows that are not packed are read as ever, where padding comes last and is not scored.
    """
    with capture.implementation(model, PACKED):
        yield


def is_on(model: Any) -> bool:
    """Return whether the model reads packed rows now."""
    return model.config._attn_implementation == PACKED


def predicting(
    model: Any, tokens: Int[torch.Tensor, "example token"], wanted: Bool[torch.Tensor, "example token"]
) -> Float[torch.Tensor, "scored output"]:
    """Return the logits at the wanted places, example by example; nothing is read after an example's last one."""
    is_read = wanted.flip(1).cumsum(1).flip(1) > 0
    is_read[0, 0] = True  # where nothing is wanted, as in a pass that only keeps others company
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    with logits.only(model, wanted[is_read][None]):
        row, position_ids = tokens[is_read][None], places[is_read][None]
        return model(input_ids=row, position_ids=position_ids, use_cache=False, is_read=is_read).logits[0]


@torch.no_grad()
def check(model: Model) -> None:
    """Raise InputError for a model in evaluation mode that cannot read several texts in one row."""
    forward = inspect.signature(model.get_decoder().forward).parameters
    if shape.keeps_states(model):
        raise _refused(model, "its layers keep a state, which goes on from text to text")
    if "position_ids" not in forward:
        raise _refused(model, "it cannot be told at which places the texts begin")
    if getattr(shape.text(model), "attention_chunk_size", None):
        raise _refused(model, "it attends within chunks of the row")
    seen: dict[int, int | None] = {}
    tokens = torch.zeros((2, 2), dtype=torch.long, device=model.device)
    try:
        with attention(model), logits.only(model, torch.zeros((1, 4), dtype=torch.bool)):
            row, places = tokens.view(1, 4), torch.tensor([[0, 1, 0, 1]], device=model.device)
            is_read = torch.ones_like(tokens, dtype=torch.bool)
            model(input_ids=row, position_ids=places, use_cache=False, is_read=is_read, seen=seen)
    except InputError as error:
        raise _refused(model, str(error).splitlines()[0]) from error
    if len(seen) < shape.n_layers(model):
        raise _refused(model, f"{len(seen)} of its {shape.n_layers(model)} layers attend through transformers")
    if shape.window(model) not in {None, *seen.values()}:
        raise _refused(model, "its layers do not say how far back they look")


def _refused(model: Model, reason: str) -> InputError:
    return InputError(
        f"--finetune.train.packing: {model.config.name_or_path or model.config.model_type} cannot read several texts "
        f"in one row ({reason}).\nLeave the flag."
    )


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "row head token width"],
    key: Float[torch.Tensor, "row group token width"],
    value: Float[torch.Tensor, "row group token width"],
    attention_mask: Bool[torch.Tensor, "_ 1 token token"] | None,
    *,
    is_read: Bool[torch.Tensor, "example place"] | None = None,
    seen: dict[int, int | None] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output: of one row whose texts stand at these places in rows of their own, or of rows as they are.

    Args:
        seen: Told by layer how many tokens back it looks at most; None: to the beginning.
    """
    capture.refuse_unsupported(module, attention_mask, options)
    window = options.get("sliding_window")
    if seen is not None:
        seen[module.layer_idx] = window  # type: ignore[index]
    if is_read is not None:
        query, key, value = (_apart(one, is_read) for one in (query, key, value))
    own = {name: options[name] for name in ("dropout", "scaling") if name in options}
    output, _ = sdpa_attention_forward(module, query, key, value, _within(window, query), is_causal=True, **own)
    return output if is_read is None else output[is_read][None], None


def _apart(
    packed: Float[torch.Tensor, "1 head token width"], is_read: Bool[torch.Tensor, "example place"]
) -> Float[torch.Tensor, "example head place width"]:
    """Return the texts of a row in rows of their own, zeros after them."""
    rows = packed.new_zeros((*is_read.shape, packed.shape[1], packed.shape[3]))
    rows[is_read] = packed[0].transpose(0, 1)
    return rows.transpose(1, 2)


def _within(
    window: int | None, query: Float[torch.Tensor, "example head place width"]
) -> Bool[torch.Tensor, "1 1 place place"] | None:
    """Return the mask of a window, as `sliding_window_overlay` of transformers; None where causal attention is all."""
    n_places = query.shape[2]
    if window is None or window >= n_places:
        return None
    place = torch.arange(n_places, device=query.device)
    back = place[:, None] - place
    return ((back >= 0) & (back < window))[None, None]


AttentionInterface.register(PACKED, _attend)
