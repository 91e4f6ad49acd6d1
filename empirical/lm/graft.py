"""Weights of one model put into another, part by part: which of them carry what finetuning did."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from core.errors import InputError
from empirical.lm import shape
from empirical.lm.shape import Model

PARTS = {
    "query_key": r"\.self_attn\.[qk]_(proj|norm)\.",
    "value_output": r"\.self_attn\.[vo]_proj\.",
    "mlp": r"\.mlp\.",
    "norms": r"(^|\.)\w*norm\.weight$",
    "embeddings": r"(^|\.)(embed_tokens|lm_head)\.",
}
"""The parts of a model, and the names of a part's weights; the first pattern that fits decides."""
LAYER = re.compile(r"\.layers\.(\d+)\.")


@contextmanager
def grafted(
    receiver: Model,
    donor: Model,
    parts: Sequence[str] = tuple(PARTS),
    *,
    layers: Sequence[int] | None = None,
    share: float = 1.0,
) -> Iterator[None]:
    """Let the receiver have the donor's weights in these parts, and its own, bit for bit, when the context ends.

    Args:
        parts: Of `PARTS`; all of them make the receiver the donor.
        layers: Where, counted from 0; None: everywhere. Embeddings, head and final norm are in no layer.
        share: How far each weight goes from the receiver's, 0, to the donor's, 1; beyond either is allowed.

    Raises:
        InputError: models of different shapes, a part or layer that there is not, weights that are in no part.
    """
    check_alike(receiver, donor)
    mine, theirs = ({name: weight.detach() for name, weight in m.named_parameters()} for m in (receiver, donor))
    wanted = names(receiver, parts, layers=layers)
    kept = {name: mine[name].clone() for name in wanted}
    try:
        for name in wanted:
            other = theirs[name].to(mine[name])
            if share == 1:
                mine[name].copy_(other)
            else:
                mine[name].lerp_(other, share)
        yield
    finally:
        for name, weights in kept.items():
            mine[name].copy_(weights)


def names(model: Model, parts: Sequence[str] = tuple(PARTS), *, layers: Sequence[int] | None = None) -> list[str]:
    """Return the names of the weights in these parts.

    Args:
        layers: Those in these layers alone; None: all of them.

    Raises:
        InputError: a part or layer that there is not, or a model with weights that are in no part.
    """
    found = [name for name, _ in model.named_parameters()]
    if unknown := [part for part in parts if part not in PARTS]:
        raise InputError(f"there is no part {unknown[0]!r} of a model; there are {', '.join(PARTS)}.")
    if strange := [name for name in found if part_of(name) is None]:
        raise InputError(
            f"{_name(model)} cannot be taken apart: {strange[0]} is none of {', '.join(PARTS)}.\n"
            "Name a model of the Llama, Mistral, Qwen or Gemma kind, an adapter merged into it."
        )
    check_layers(model, layers or ())
    return [name for name in found if part_of(name) in parts and (layers is None or _layer(name) in layers)]


def part_of(name: str) -> str | None:
    """Return the part that a weight is in, by its name; None: in none."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)


def check_alike(receiver: Model, donor: Model) -> None:
    """Raise InputError if two models do not have the same weights by name and shape."""
    mine, theirs = ({name: tuple(weight.shape) for name, weight in m.named_parameters()} for m in (receiver, donor))
    if mine == theirs:
        return
    name = min(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name))
    raise InputError(
        f"{_name(receiver)} and {_name(donor)} are not of one shape: {name} is {mine.get(name, 'missing')} and "
        f"{theirs.get(name, 'missing')}.\nName two models that were finetuned from the same base."
    )


def check_layers(model: Model, layers: Sequence[int]) -> None:
    """Raise InputError for a layer that the model does not have."""
    n_layers = shape.n_layers(model)
    if unknown := [layer for layer in layers if not 0 <= layer < n_layers]:
        raise InputError(f"{_name(model)} has no layer {unknown[0]}: it has {n_layers}, counted from 0.")


def _layer(name: str) -> int | None:
    """Return the layer that a weight is in, by its name; None: in none."""
    found = LAYER.search(name)
    return None if found is None else int(found[1])


def _name(model: Model) -> str:
    return str(model.config.name_or_path or model.config.model_type)
