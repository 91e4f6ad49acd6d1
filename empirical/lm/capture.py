"""How much attention chosen tokens pay to spans of the text, by layer and head, while the model runs as it always does.

The model's output comes from PyTorch's fused attention (SDPA), which keeps no weights. Beside it only the wanted rows'
softmax is computed and summed over the spans at once: memory grows with layers × heads × spans, not with tokens².
Where it is asked for, tokens count by what they add to the residual stream too, ‖α v W_O‖ (Kobayashi et al. 2020,
"Attention is Not Only a Weight").
"""

from collections.abc import Iterator, Mapping
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
OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")
"""What architectures call the projection of all heads' outputs."""
Grams = Mapping[int, Float[torch.Tensor, "head width width"]]
"""By layer, W_O W_Oᵀ of each head: it gives the length of what a value adds to the residual stream."""
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
    """Return the attention mass from each query token to each span, 0 to 1, in float32 on the CPU (see `both`)."""
    return both(model, input_ids, attention_mask, queries, spans, grams={}, cache=cache)[0]


@torch.no_grad()
def both(
    model: Model,
    input_ids: Int[torch.Tensor, "question token"],
    attention_mask: Shaped[torch.Tensor, "question token"],
    queries: Int[torch.Tensor, "question query"],
    spans: Bool[torch.Tensor, "question span token"],
    *,
    grams: Grams,
    cache: DynamicCache | None = None,
) -> tuple[
    Float[torch.Tensor, "question query layer head span"], Float[torch.Tensor, "question query layer head span"]
]:
    """Return the attention mass from each query token to each span, and each span's share of ‖α v W_O‖ over all tokens.

    Both are 0 to 1, in float32 on the CPU; the second is nan in a layer without a Gram (`weighing`).

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
    rows = _Rows(queries.long(), spans.float(), grams)
    unread = torch.zeros_like(input_ids[:, reading.n_read(cache) :], dtype=torch.bool)
    with logits.only(model, unread):
        forward(model, WITH_ROWS, input_ids, attention_mask, cache=cache, rows=rows)
    n_layers = shape.n_layers(model)
    if sorted(rows.mass) != list(range(n_layers)):
        raise _not_captured(model.config, f"{len(rows.mass)} of its {n_layers} layers attend through transformers")
    mass = torch.stack([rows.mass[layer] for layer in range(n_layers)], dim=2)
    nothing = torch.full_like(rows.mass[0], torch.nan)
    return mass, torch.stack([rows.weighted.get(layer, nothing) for layer in range(n_layers)], dim=2)


@torch.no_grad()
def weighing(model: Model) -> Grams:
    """Return what `both` weighs values with: nothing of layers whose projection does not take just what the heads give.

    Read off the projection's outputs, so that an adapter or quantised weights are part of it.

    Raises:
        InputError: the model's attention cannot be captured.
        ValueError: the model is in training mode.
    """
    given: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given[module] = inputs[0]

    tokens = torch.arange(3)[None]  # several, as padding's embedding is zero, and so is all that is made of it
    rows = _Rows(torch.ones((1, 1), dtype=torch.long), torch.ones((1, 1, 3)), {}, outputs={})
    named = [module for name, module in model.named_modules() if name.rpartition(".")[2] in OUTPUTS]
    hooks = [module.register_forward_pre_hook(keep) for module in named]
    try:
        forward(model, WITH_ROWS, tokens, torch.ones_like(tokens), rows=rows)
    finally:
        for hook in hooks:
            hook.remove()
    grams = {}
    for layer, (attention, output) in (rows.outputs or {}).items():
        for projection in attention.children():
            own = given.get(projection)
            if own is not None and own.shape[-1] == output[0, 0].numel() and torch.equal(own, output.flatten(2)):
                grams[layer] = _gram(projection, own, n_heads=output.shape[2])
    return grams


def _gram(
    projection: torch.nn.Module, given: Float[torch.Tensor, "1 token input"], *, n_heads: int
) -> Float[torch.Tensor, "head width width"]:
    units = torch.eye(given.shape[-1], dtype=given.dtype, device=given.device)
    weight = (projection(units) - projection(torch.zeros_like(units[:1]))).float().unflatten(0, (n_heads, -1))
    return weight @ weight.mT


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


@torch.no_grad()
def without_attention(model: Model) -> list[int]:
    """Return the layers, counted from 0, in which nothing attends: they keep a state (Qwen3-Next, LFM2).

    Raises:
        InputError: the model's attention cannot be captured.
    """
    tokens = torch.zeros((1, 2), dtype=torch.long)
    rows = _Rows(torch.ones((1, 1), dtype=torch.long), torch.ones((1, 1, 2)), {})
    with logits.only(model, torch.zeros_like(tokens, dtype=torch.bool)):
        forward(model, WITH_ROWS, tokens, torch.ones_like(tokens), rows=rows)
    return sorted(set(range(shape.n_layers(model))) - set(rows.mass))


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
    grams: Grams
    mass: dict[int, Float[torch.Tensor, "question query head span"]] = field(default_factory=dict)
    weighted: dict[int, Float[torch.Tensor, "question query head span"]] = field(default_factory=dict)
    outputs: dict[int, tuple[torch.nn.Module, torch.Tensor]] | None = None
    """The attention modules with their heads' outputs; None: they are not wanted."""


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
        layer: Any = module.layer_idx
        rows.mass[layer] = torch.einsum("nhqt,nst->nqhs", weights, spans).cpu()
        if layer in rows.grams:
            rows.weighted[layer] = _weighted(weights, value, rows.grams[layer], spans).cpu()
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if rows.outputs is not None:
        rows.outputs[layer] = module, output
    return output, None


def _weighted(
    weights: Float[torch.Tensor, "question head query token"],
    value: Float[torch.Tensor, "question group token value"],
    gram: Float[torch.Tensor, "head value value"],
    spans: Float[torch.Tensor, "question span token"],
) -> Float[torch.Tensor, "question query head span"]:
    """Return the spans' shares of ‖α v W_O‖; consecutive heads share a group's values."""
    values, by_group = value.float(), gram.unflatten(0, (value.shape[1], -1))
    squared = torch.einsum("ngtv,grvw,ngtw->ngrt", values, by_group, values).flatten(1, 2)
    # Padding's values may be anything, nan too: what is not looked at adds nothing.
    added = (weights * squared.clamp(min=0).sqrt()[:, :, None]).masked_fill(weights == 0, 0)
    return torch.einsum("nhqt,nst->nqhs", added / added.sum(-1, keepdim=True), spans)


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
