"""How much attention chosen tokens pay to spans of the text, by layer and head, while the model runs as it always does.

The model's output comes from PyTorch's fused attention (SDPA), which keeps no weights. Beside it only the wanted rows'
softmax is computed and summed over the spans at once: memory grows with layers × heads × spans, not with tokens².
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from core.errors import InputError
from empirical.lm import logits, reading, shape
from empirical.lm.shape import Model

SPANS = ("subject", "relation", "template", "sink")
"""What attention is summed over, in this order; the sink is the first token."""
WITH_ROWS = "sdpa_with_rows"
"""Name under which transformers finds the attention function of this file."""
UNSUPPORTED = {"softcap": "a cap on its scores", "s_aux": "a learned sink", "position_bias": "a bias by position"}
"""Arguments that change the weights in a way that is not computed here, and what they mean."""


@torch.no_grad()
def measure(
    model: Model,
    input_ids: Int[torch.Tensor, "question token"],
    attention_mask: Shaped[torch.Tensor, "question token"],
    queries: Int[torch.Tensor, "question query"],
    spans: Bool[torch.Tensor, "question span token"],
    *,
    cache: DynamicCache | None = None,
) -> Float[torch.Tensor, "question query layer head span"]:
    """Return the attention mass from each query token to each span, 0 to 1, in float32 on the CPU.

    The softmax is taken in float32 whatever the model's precision. Spans may overlap or leave tokens out.

    Args:
        attention_mask: 0 where there is padding, on whichever side.
        queries: Indices into the padded rows.
        cache: Keys and values of the first places of all rows, up to a query at most.

    Raises:
        InputError: the model's attention cannot be captured.
        ValueError: the model is in training mode, or a query stands on padding or where the cache has read.
    """
    if not attention_mask.gather(1, queries.long()).all():
        raise ValueError("a query stands on padding: it attends to nothing")
    if (queries < reading.n_read(cache)).any():
        raise ValueError("a query stands where the cache has read: it does not attend again")
    rows = _Rows(queries.long(), spans.float())
    unread = torch.zeros_like(input_ids[:, reading.n_read(cache) :], dtype=torch.bool)
    with logits.only(model, unread):
        forward(model, WITH_ROWS, input_ids, attention_mask, cache=cache, rows=rows)
    n_layers = shape.n_layers(model)
    if sorted(rows.mass) != list(range(n_layers)):
        raise _not_captured(model.config, f"{len(rows.mass)} of its {n_layers} layers attend through transformers")
    return torch.stack([rows.mass[layer] for layer in range(n_layers)], dim=2)


@torch.no_grad()
def refusal(model: Model) -> InputError | None:
    """Return why the attention of a model in evaluation mode cannot be measured; None where it can."""
    tokens = torch.zeros((1, 2), dtype=torch.long)
    spans = torch.ones((1, len(SPANS), 2), dtype=torch.bool)
    try:
        measure(model, tokens, torch.ones_like(tokens), torch.ones((1, 1), dtype=torch.long), spans)
    except InputError as error:
        return error
    return None


def nonsink(mass: Float[torch.Tensor, "*axes span"]) -> Float[torch.Tensor, "*axes rest"]:
    """Return the shares of subject, relation and template in the mass that is not the sink's; nan if all of it is."""
    *_, sink = SPANS
    is_sink = torch.tensor([span == sink for span in SPANS])
    rest = 1 - mass[..., is_sink]
    return torch.where(rest > 0, mass[..., ~is_sink] / rest, torch.nan)


def forward(
    model: Model,
    name: str,
    input_ids: Int[torch.Tensor, "question token"],
    attention_mask: Shaped[torch.Tensor, "question token"],
    *,
    cache: DynamicCache | None = None,
    **options: Any,
) -> Float[torch.Tensor, "_ kept output"]:
    """Return the logits of one pass through a registered attention function, to which the options are handed down.

    The pass is `reading.forward`. Each attention function that is registered refuses what it does not compute
    (`refuse_unsupported`).

    Raises:
        InputError: the model does not let its attention function be chosen.
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode: dropout would change what it attends to")
    with implementation(model, name):
        return reading.forward(model, input_ids, attention_mask, cache=cache, **options)


@contextmanager
def implementation(model: Model, name: str) -> Iterator[None]:
    """Let the model attend through the named function, and as before when the context ends, come what may.

    Raises:
        InputError: the model does not let its attention function be chosen.
    """
    before = str(model.config._attn_implementation)
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise _not_captured(model.config, "it cannot run on PyTorch's fused attention") from error
    try:
        if model.config._attn_implementation != name:
            raise _not_captured(model.config, "its attention function cannot be chosen")
        yield
    finally:
        model.set_attn_implementation(before)


def refuse_unsupported(module: torch.nn.Module, mask: torch.Tensor | None, options: dict[str, Any]) -> None:
    """Raise InputError for attention that is not the plain causal softmax of scaled products under a Boolean mask."""
    for name, meaning in UNSUPPORTED.items():
        if options.get(name) is not None:
            raise _not_captured(module.config, f"it has {meaning} ({name})")
    is_causal = options.get("is_causal")
    if mask is None and not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise _not_captured(module.config, "it also attends to later tokens")
    if mask is not None and mask.dtype != torch.bool:
        raise _not_captured(module.config, "it adds a bias to its scores")


@dataclass(frozen=True, eq=False)
class _Rows:
    """What is wanted, and what has been captured of each layer.

    Not a tuple, nor a mapping: libraries that move a call's arguments between devices copy those.
    """

    queries: Int[torch.Tensor, "question query"]
    spans: Float[torch.Tensor, "question span token"]
    mass: dict[int, Float[torch.Tensor, "question query head span"]] = field(default_factory=dict)


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "question head token width"],
    key: Float[torch.Tensor, "question group key width"],
    value: Float[torch.Tensor, "question group key value"],
    attention_mask: Bool[torch.Tensor, "_ 1 token key"] | None,
    *,
    rows: _Rows,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output; into `rows` goes the mass of the wanted rows."""
    refuse_unsupported(module, attention_mask, options)
    queries, spans = rows.queries.to(query.device)[:, None, :, None], rows.spans.to(query.device)
    own = queries - (key.shape[2] - query.shape[2])  # what is read already asks no more
    if attention_mask is None:  # transformers leaves it out where it would be plainly causal
        allowed = torch.arange(key.shape[2], device=query.device) <= queries
    else:
        allowed = attention_mask.take_along_dim(own, dim=2)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    with torch.autocast(query.device.type, enabled=False):  # what is measured is float32 whatever is computed around
        weights = softmax(query.take_along_dim(own, dim=2), key, allowed, scaling)
        mass = torch.einsum("nhqt,nst->nqhs", weights, spans).cpu()
    layer: Any = module.layer_idx
    rows.mass[layer] = mass
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def softmax(
    query: Float[torch.Tensor, "question head query width"],
    key: Float[torch.Tensor, "question group token width"],
    allowed: Bool[torch.Tensor, "_ 1 query token"],
    scaling: float,
) -> Float[torch.Tensor, "question head query token"]:
    """Return the rows' weights in float32; consecutive heads share a group's keys. A row that sees nothing is nan."""
    grouped = query.float().unflatten(1, (key.shape[1], -1))
    scores = torch.einsum("ngrqw,ngtw->ngrqt", grouped, key.float()).flatten(1, 2) * scaling
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1)


def mask(*args: Any, **options: Any) -> Bool[torch.Tensor, "_ 1 token key"] | None:
    """Return transformers' own mask, written out even where it is plainly causal."""
    return sdpa_mask(*args, **options | {"allow_is_causal_skip": False})


def _not_captured(config: Any, reason: str) -> InputError:
    return InputError(
        f"the attention of {config.name_or_path or config.model_type} cannot be captured: {reason}.\n"
        "Name a model of the Llama, Mistral or Qwen kind."
    )


AttentionInterface.register(WITH_ROWS, _attend)
# Without a mask function of the same name transformers would pass no mask: padding would be attended to.
AttentionMaskInterface.register(WITH_ROWS, sdpa_mask)
