"""Attention knockout: what the answer's probability loses when one token may no longer look at others.

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from empirical.lm import capture, logits
from empirical.lm.generate import Model

WITH_CUT = "sdpa_with_cut"
"""Name under which transformers finds the attention function of this file."""


@torch.no_grad()
def logprob(
    model: Model,
    input_ids: Int[torch.Tensor, "question token"],
    attention_mask: Shaped[torch.Tensor, "question token"],
    completion: Bool[torch.Tensor, "question token"],
    queries: Int[torch.Tensor, " question"],
    *,
    cut: Bool[torch.Tensor, "question token"] | None = None,
    layers: Sequence[int] | None = None,
) -> Float[torch.Tensor, " question"]:
    """Return the log-probability of the completion in nats, summed over its tokens, in float32 on the CPU.

    The softmax runs over the keys that are left: their weights still sum to 1. Nothing cut is computed by the same
    kernel as a cut, so that the difference of the two is due to the cut alone.

    Args:
        attention_mask: 0 where there is padding, on whichever side.
        completion: Which tokens are the answer's.
        queries: The token, by its index into the padded row, whose edges are cut: the prompt's last.
        cut: The tokens that it may not look at; None for no cut.
        layers: Where, counted from 0; None for all.

    Raises:
        InputError: the model's attention cannot be changed.
        ValueError: the model is in training mode, a query is cut from itself or stands on padding, a row has no
            completion, or one that begins with the row; there is no such layer.
    """
    cut = torch.zeros_like(completion) if cut is None else cut
    n_layers = model.config.get_text_config().num_hidden_layers
    layers = range(n_layers) if layers is None else layers
    _check(attention_mask, completion, queries, cut)
    if unknown := set(layers) - set(range(n_layers)):
        raise ValueError(f"no such layer of {n_layers}: {sorted(unknown)}")
    edges = _Edges(queries, cut, frozenset(layers))
    predicts = completion.roll(-1, dims=1)  # no completion begins with its row, so nothing is rolled to the end
    with logits.only(model, predicts):
        predicting = capture.forward(model, WITH_CUT, input_ids, attention_mask, edges=edges)[0]
    targets = input_ids[completion].to(predicting.device).long()
    chosen = predicting.float().log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu()
    return torch.zeros(len(input_ids)).index_add(0, completion.nonzero()[:, 0].cpu(), chosen)


@dataclass(frozen=True, eq=False)
class _Edges:
    """What is cut."""

    queries: Int[torch.Tensor, " question"]
    cut: Bool[torch.Tensor, "question token"]
    layers: frozenset[int]


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "question head token width"],
    key: Float[torch.Tensor, "question group token width"],
    value: Float[torch.Tensor, "question group token value"],
    attention_mask: Bool[torch.Tensor, "_ 1 token token"],
    *,
    edges: _Edges,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output under the mask that lacks the edges."""
    capture.refuse_unsupported(module, attention_mask, options)
    if module.layer_idx in edges.layers:
        cut, rows = edges.cut.to(query.device), torch.arange(len(query), device=query.device)
        attention_mask = attention_mask.expand(len(query), -1, -1, -1).clone()
        attention_mask[rows, :, edges.queries.to(query.device)] &= ~cut[:, None]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _mask(*args: Any, **options: Any) -> Bool[torch.Tensor, "_ 1 token token"] | None:
    """Return transformers' own mask, written out even where it is plainly causal."""
    return sdpa_mask(*args, **options | {"allow_is_causal_skip": False})


def _check(
    attention_mask: Shaped[torch.Tensor, "question token"],
    completion: Bool[torch.Tensor, "question token"],
    queries: Int[torch.Tensor, " question"],
    cut: Bool[torch.Tensor, "question token"],
) -> None:
    """Raise ValueError for what would give no number, or a wrong one."""
    own = queries.long()[:, None]
    if cut.gather(1, own).any():
        raise ValueError("a query is cut from itself: it might have nothing left to look at")
    if not attention_mask.gather(1, own).all():
        raise ValueError("a query stands on padding")
    if not completion.any(1).all():
        raise ValueError("a row has no completion")
    if completion[:, 0].any():
        raise ValueError("a completion begins with its row: nothing predicts its first token")


AttentionInterface.register(WITH_CUT, _attend)
AttentionMaskInterface.register(WITH_CUT, _mask)
