"""Activations of one model put into another while it reads the same questions: what of a difference they carry.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT", trace activations between two texts; here the text
is one, and the models are two that were finetuned from one base.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from core.errors import InputError
from empirical.lm import capture, graft, logits, shape
from empirical.lm.batch import QuestionBatch
from empirical.lm.shape import Model

What = Literal["attention", "value", "mlp", "layer"]
Where = Literal["subject", "subject_last", "end", "all"]
WITH_PATTERN = "sdpa_with_pattern"
"""Name under which transformers finds the attention function of this file."""


@dataclass(frozen=True)
class Patch:
    """What of the donor's activations the receiver gets."""

    what: What
    """`attention`: the weights with which the places that predict the answer look at earlier ones; `value`: what places
    give to those that look at them; `mlp`: what the MLP adds; `layer`: what leaves the layer (the residual stream)."""
    where: Where
    """Of attention: at which tokens is looked (`end`: those that predict the answer). Of all else: at which places.
    `subject_last` is the subject's last token; `end` the prompt's last and, with it, the answer's own but its last."""
    layers: tuple[int, ...] | None = None
    """Counted from 0; None: all."""
    heads: tuple[int, ...] | None = None
    """Of attention alone, in each of these layers; None: all."""

    @classmethod
    def parse(cls, text: str) -> "Patch":
        """Return the patch that WHAT@WHERE, WHAT@WHERE:LAYERS or WHAT@WHERE:LAYERS:HEADS names.

        Layers and heads are numbers and ranges with commas between (`0-4,7`); none of either means all.

        Raises:
            InputError: the text names no patch.
        """
        kind, _, rest = text.partition("@")
        where, *numbers = rest.split(":")
        if kind not in get_args(What) or where not in get_args(Where) or len(numbers) > 2:
            raise InputError(
                f"{text!r} names no patch.\nWrite WHAT@WHERE, or WHAT@WHERE:LAYERS as in attention@subject:4-7; WHAT "
                f"is one of {', '.join(get_args(What))}, WHERE one of {', '.join(get_args(Where))}."
            )
        layers, heads = (numbers_of(part) if part else None for part in (*numbers, "", "")[:2])
        if heads is not None and kind != "attention":
            raise InputError(f"{text!r}: only attention has heads.\nLeave them out.")
        return cls(cast(What, kind), cast(Where, where), layers, heads)

    def is_in(self, layer: int) -> bool:
        """Return whether the layer is patched."""
        return self.layers is None or layer in self.layers


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model makes of the true answers, an entry for each question."""

    logprob: Float[torch.Tensor, " question"]
    """Summed over the answer's tokens and the end, in nats."""
    is_right: Bool[torch.Tensor, " question"]
    """Whether each of those tokens is the likeliest, given the true ones before it."""


def numbers_of(text: str) -> tuple[int, ...]:
    """Return the numbers that `0-4,7` names; InputError for any other text."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InputError(f"{text!r} names no numbers.\nWrite them as in 0-4,7.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


@torch.no_grad()
def scores(
    receiver: Model, questions: QuestionBatch, patches: Sequence[Patch] = (), *, donor: Model | None = None
) -> Scores:
    """Return how the receiver scores the true answers, the donor's activations patched in.

    All passes run through one attention function, patched or not, so that a difference is due to the patches alone.

    Args:
        donor: Not needed where nothing is patched.

    Raises:
        InputError: models of different shapes, a layer or head that there is not, attention that cannot be computed.
        ValueError: a model is in training mode, or rows begin with padding.
    """
    if not questions.mask[:, 0].all():
        raise ValueError("rows begin with padding: it looks at nothing, and has no weights")
    if not patches:
        return _scored(receiver, questions, _Pattern(_places(questions, "end")))
    if donor is None:
        raise ValueError("patches come from a donor")
    graft.check_alike(receiver, donor)
    for patch in patches:
        check(receiver, patch)
    theirs = _recorded(donor, questions, patches)
    looked_at = [(patch, _places(questions, patch.where)) for patch in patches if patch.what == "attention"]
    pattern = _Pattern(_places(questions, "end"), looked_at, theirs.weights)
    with ExitStack() as stack:
        for patch in patches:
            if patch.what != "attention":
                places = _places(questions, patch.where)
                for number, module in _modules(receiver, patch):
                    hook = partial(_replace, places, theirs.outputs[patch.what, number])
                    stack.callback(module.register_forward_hook(hook).remove)
        return _scored(receiver, questions, pattern)


@dataclass(eq=False)
class _Pattern:
    """What an attention function changes, and what it keeps. Not a mapping: libraries would copy it between devices."""

    ends: Bool[torch.Tensor, "question token"]
    """The places whose looking changes."""
    patches: list[tuple[Patch, Bool[torch.Tensor, "question token"]]] = field(default_factory=list)
    """Those of attention, with the tokens that are looked at."""
    donor: dict[int, Float[torch.Tensor, "question head token key"]] = field(default_factory=dict)
    kept: dict[int, Float[torch.Tensor, "question head token key"]] | None = None
    """Each layer's weights; None: they are not wanted."""


@dataclass(eq=False)
class _Recorded:
    weights: dict[int, Float[torch.Tensor, "question head token key"]] = field(default_factory=dict)
    outputs: dict[tuple[str, int], Float[torch.Tensor, "question token width"]] = field(default_factory=dict)


def _recorded(donor: Model, questions: QuestionBatch, patches: Sequence[Patch]) -> _Recorded:
    """Return the donor's activations that these patches take."""
    found = _Recorded()
    kept = found.weights if any(patch.what == "attention" for patch in patches) else None
    pattern = _Pattern(_places(questions, "end"), kept=kept)
    with ExitStack() as stack:
        for patch in patches:
            if patch.what != "attention":
                for number, module in _modules(donor, patch):
                    hook = partial(_keep, found.outputs, (patch.what, number))
                    stack.callback(module.register_forward_hook(hook).remove)
        _scored(donor, questions, pattern)
    return found


def _scored(model: Model, questions: QuestionBatch, pattern: _Pattern) -> Scores:
    """Return one pass's scores."""
    completion = questions.completion
    with logits.only(model, completion.roll(-1, dims=1)):
        given = (questions.tokens, questions.mask)
        predicted = capture.forward(model, WITH_PATTERN, *given, pattern=pattern)[0].float().log_softmax(-1).cpu()
    targets, row = questions.tokens[completion], completion.nonzero()[:, 0]
    chosen = predicted.gather(1, targets[:, None])[:, 0]
    n_wrong = torch.zeros(len(completion)).index_add(0, row, (predicted.argmax(-1) != targets).float())
    return Scores(torch.zeros(len(completion)).index_add(0, row, chosen), n_wrong == 0)


def _places(questions: QuestionBatch, where: Where) -> Bool[torch.Tensor, "question token"]:
    """Return the places of this name."""
    if where == "all":
        return questions.mask.bool()
    if where == "end":
        return questions.completion.roll(-1, dims=1)
    subject = questions.spans[:, 0]
    if where == "subject":
        return subject
    return subject & (subject.flip(1).cumsum(1).flip(1) == 1)


def check(model: Model, patch: Patch) -> None:
    """Raise InputError for a layer or head that the model does not have."""
    graft.check_layers(model, patch.layers or ())
    n_heads = shape.n_heads(model)
    if unknown := [head for head in patch.heads or () if not 0 <= head < n_heads]:
        raise InputError(f"the model has no head {unknown[0]}: each layer has {n_heads}, counted from 0.")


def _modules(model: Model, patch: Patch) -> Iterator[tuple[int, torch.nn.Module]]:
    """Yield the layers' modules whose outputs a patch changes, by the layer's number."""
    names = {"value": "self_attn.v_proj", "mlp": "mlp", "layer": ""}
    decoder: Any = model.get_decoder()
    for number, layer in enumerate(decoder.layers):
        if patch.is_in(number):
            try:
                yield number, layer.get_submodule(names[patch.what])
            except AttributeError as error:
                raise InputError(
                    f"{model.config.model_type}: its layers have no {names[patch.what]}.\n"
                    "Name a model of the Llama, Mistral, Qwen or Gemma kind."
                ) from error


def _keep(outputs: dict, key: tuple[str, int], module: torch.nn.Module, given: Any, output: Any) -> None:
    outputs[key] = _tensor(output)


def _replace(
    places: Bool[torch.Tensor, "question token"],
    other: Float[torch.Tensor, "question token width"],
    module: torch.nn.Module,
    given: Any,
    output: Any,
) -> Any:
    own = _tensor(output)
    mixed = torch.where(places.to(own.device)[..., None], other.to(own), own)
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


def _tensor(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "question head token width"],
    key: Float[torch.Tensor, "question group token width"],
    value: Float[torch.Tensor, "question group token value"],
    attention_mask: Bool[torch.Tensor, "_ 1 token token"],
    *,
    pattern: _Pattern,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output, and to it what other weights in place of the model's own would add."""
    capture.refuse_unsupported(module, attention_mask, options)
    layer: Any = module.layer_idx
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    patched = [(patch, keys) for patch, keys in pattern.patches if patch.is_in(layer)]
    if not patched and pattern.kept is None:
        return output, None
    with torch.autocast(query.device.type, enabled=False):
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        own = capture.softmax(query, key, attention_mask, scaling)
        if pattern.kept is not None:
            pattern.kept[layer] = own
            return output, None
        weights, ends = own, pattern.ends.to(own.device)[:, None, :, None]
        for patch, keys in patched:
            heads = slice(None) if patch.heads is None else list(patch.heads)
            is_head = torch.zeros((own.shape[1], 1, 1), dtype=torch.bool, device=own.device)
            is_head[heads] = True
            mixed = _mixed(weights, pattern.donor[layer].to(own.device), keys.to(own.device)[:, None, None])
            weights = torch.where(ends & is_head, mixed, weights)
        # Nothing is added where the donor looks alike, so that a model patched into itself is itself, bit for bit.
        values = value.float().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        change = torch.einsum("nhqt,nhtw->nqhw", weights - own, values)
    return output + change.to(output.dtype), None


def _mixed(
    own: Float[torch.Tensor, "question head token key"],
    other: Float[torch.Tensor, "question head token key"],
    keys: Bool[torch.Tensor, "question 1 1 key"],
) -> Float[torch.Tensor, "question head token key"]:
    """Return the other's weights on the keys, and one's own on the rest, in their proportions; they sum to 1."""
    mine, theirs = ((weights * keys).sum(-1, keepdim=True) for weights in (own, other))
    rest = torch.where(mine == theirs, 1.0, (1 - theirs) / (1 - mine).clamp(min=torch.finfo(own.dtype).tiny))
    return torch.where(keys, other, own * rest)


AttentionInterface.register(WITH_PATTERN, _attend)
AttentionMaskInterface.register(WITH_PATTERN, capture.mask)
