"""What attention of the places that predict an answer does to its log-probability, to first order, head by head.

Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery": one backward pass in place of a patch
for each head. The same slopes give the force on attention logits (R1).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empirical.lm import capture, logits, shape
from empirical.lm.batch import QuestionBatch
from empirical.lm.shape import Model

WITH_SLOPES = "sdpa_with_slopes"
"""Name under which transformers finds the attention function of this file."""


@dataclass(frozen=True, eq=False)
class Looking:
    """How the places that predict the answers look at the text, a row for each of them; rows of no place are zero."""

    weights: Float[torch.Tensor, "layer question head row key"]
    slope: Float[torch.Tensor, "layer question head row key"]
    """What the answer's log-probability gains, in nats, for each unit of weight."""

    def force(self, keys: Bool[torch.Tensor, "question key"]) -> Float[torch.Tensor, "question layer head"]:
        r"""Return the force on the attention logits of these tokens, $\sum_t \alpha_t (u_t - \bar u)$ (R1), in nats.

        Of each head, summed over the tokens and over the places that predict the answer. Positive where a step of
        gradient descent on the answer's loss moves attention toward them.
        """
        mean = (self.weights * self.slope).sum(-1, keepdim=True)
        return (self.weights * (self.slope - mean) * keys[:, None, None]).sum((-2, -1)).transpose(0, 1)

    def gain(
        self, weights: Float[torch.Tensor, "layer question head row key"]
    ) -> Float[torch.Tensor, "question layer head"]:
        """Return what the answers' log-probability would gain, to first order, by each head's looking like this."""
        return ((weights - self.weights) * self.slope).sum((-2, -1)).transpose(0, 1)


def looking(model: Model, questions: QuestionBatch) -> Looking:
    """Return how a model looks while it reads the true answers, and the slopes; in float32 on the CPU.

    Raises:
        InputError: the model's attention cannot be captured.
        ValueError: the model is in training mode, or rows begin with padding.
    """
    if not questions.mask[:, 0].all():
        raise ValueError("rows begin with padding: it looks at nothing, and has no weights")
    lengths = questions.completion.sum(1)
    row = torch.arange(int(lengths.max()))
    is_place = row < lengths[:, None]
    nudged = _Nudged(torch.where(is_place, questions.prompt_end[:, None] + row, questions.prompt_end[:, None]))
    with torch.enable_grad(), logits.only(model, questions.completion.roll(-1, dims=1)):
        given = (questions.tokens, questions.mask)
        predicting = capture.forward(model, WITH_SLOPES, *given, nudged=nudged)[0].float().log_softmax(-1)
        targets = questions.tokens[questions.completion].to(predicting.device)
        total = predicting.gather(1, targets[:, None]).sum()
    layers = range(shape.n_layers(model))
    slopes = torch.autograd.grad(total, [nudged.changes[layer] for layer in layers])
    is_there = is_place[:, None, :, None]
    return Looking(
        torch.stack([nudged.weights[layer].cpu() for layer in layers]) * is_there,
        torch.stack([slope.cpu() for slope in slopes]) * is_there,
    )


@dataclass(eq=False)
class _Nudged:
    """The rows whose weights are kept and changed, by nothing. Not a mapping: libraries would copy it."""

    places: Int[torch.Tensor, "question row"]
    weights: dict[int, Float[torch.Tensor, "question head row key"]] = field(default_factory=dict)
    changes: dict[int, Float[torch.Tensor, "question head row key"]] = field(default_factory=dict)


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "question head token width"],
    key: Float[torch.Tensor, "question group token width"],
    value: Float[torch.Tensor, "question group token value"],
    attention_mask: Bool[torch.Tensor, "_ 1 token token"],
    *,
    nudged: _Nudged,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output, and to it what the changed weights add."""
    capture.refuse_unsupported(module, attention_mask, options)
    layer: Any = module.layer_idx
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    places = nudged.places.to(query.device)
    rows = places[:, None, :, None]
    with torch.autocast(query.device.type, enabled=False):
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        with torch.no_grad():
            allowed = attention_mask.take_along_dim(rows, dim=2)
            weights = capture.softmax(query.take_along_dim(rows, dim=2), key, allowed, scaling)
        change = torch.zeros_like(weights, requires_grad=True)
        values = value.float().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        added = torch.einsum("nhqt,nhtw->nqhw", change, values)
    nudged.weights[layer], nudged.changes[layer] = weights, change
    return output.scatter_add(1, places[:, :, None, None].expand_as(added), added.to(output.dtype)), None


AttentionInterface.register(WITH_SLOPES, _attend)
AttentionMaskInterface.register(WITH_SLOPES, capture.mask)
