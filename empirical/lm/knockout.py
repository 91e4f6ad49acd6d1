"""Attention knockout: what the answer's probability loses when one token may no longer look at others.

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empirical.lm import capture, reading, shape
from empirical.lm.batch import QuestionBatch
from empirical.lm.reading import Parts
from empirical.lm.shape import Model

WITH_CUT = "sdpa_with_cut"
"""Name under which transformers finds the attention function of this file."""


def logprob(model: Model, questions: QuestionBatch, **options: Any) -> Float[torch.Tensor, " question"]:
    """Return the log-probability of the answers in nats, summed over their tokens, as `logprobs`."""
    return logprobs(model, questions, **options).whole


def logprobs(
    model: Model,
    questions: QuestionBatch,
    *,
    cut: Bool[torch.Tensor, "question token"] | None = None,
    layers: Sequence[int] | None = None,
    cache: DynamicCache | None = None,
) -> Parts:
    """Return the log-probability of the answers in nats, where the prompts' last tokens do not look at some others.

    The first token of an answer is predicted by such a token; the later ones by tokens that look where they like. The
    softmax runs over the keys that are left: their weights still sum to 1. Nothing cut is computed by the same
    kernel as a cut, so that the difference of the two is due to the cut alone.

    Args:
        cut: The tokens that a prompt's last one may not look at; None for no cut.
        layers: Where, counted from 0; None for all.
        cache: Keys and values of the places before the prompts' last tokens, at most.

    Raises:
        InputError: the model's attention cannot be changed.
        ValueError: the model is in training mode, a query is cut from itself, stands on padding or where the cache has
            read; a row has no answer, or one that begins with the row; there is no such layer.
    """
    cut = torch.zeros_like(questions.completion) if cut is None else cut
    n_layers = shape.n_layers(model)
    layers = range(n_layers) if layers is None else layers
    _check(questions, cut, reading.n_read(cache))
    if unknown := set(layers) - set(range(n_layers)):
        raise ValueError(f"no such layer of {n_layers}: {sorted(unknown)}")
    edges = _Edges(questions.prompt_end, cut, frozenset(layers))
    run = partial(capture.forward, model, WITH_CUT, edges=edges)
    return reading.of_completions(questions, reading.following(model, questions, cache=cache, run=run))


@dataclass(frozen=True, eq=False)
class _Edges:
    """What is cut."""

    queries: Int[torch.Tensor, " question"]
    cut: Bool[torch.Tensor, "question token"]
    layers: frozenset[int]


def _attend(
    module: torch.nn.Module,
    query: Float[torch.Tensor, "question head token width"],
    key: Float[torch.Tensor, "question group key width"],
    value: Float[torch.Tensor, "question group key value"],
    attention_mask: Bool[torch.Tensor, "_ 1 token key"],
    *,
    edges: _Edges,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return SDPA's output under the mask that lacks the edges."""
    capture.refuse_unsupported(module, attention_mask, options)
    if module.layer_idx in edges.layers:
        cut, rows = edges.cut.to(query.device), torch.arange(len(query), device=query.device)
        attention_mask = attention_mask.expand(len(query), -1, -1, -1).clone()
        own = edges.queries.to(query.device) - (key.shape[2] - query.shape[2])  # what is read already asks no more
        attention_mask[rows, :, own] &= ~cut[:, None]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _check(questions: QuestionBatch, cut: Bool[torch.Tensor, "question token"], n_read: int) -> None:
    """Raise ValueError for what would give no number, or a wrong one."""
    own = questions.prompt_end.long()[:, None]
    if cut.gather(1, own).any():
        raise ValueError("a query is cut from itself: it might have nothing left to look at")
    if not questions.mask.gather(1, own).all():
        raise ValueError("a query stands on padding")
    if (own < n_read).any():
        raise ValueError("a query stands where the cache has read: cutting it changes nothing")
    if not questions.completion.any(1).all():
        raise ValueError("a row has no completion")
    if questions.completion[:, 0].any():
        raise ValueError("a completion begins with its row: nothing predicts its first token")


AttentionInterface.register(WITH_CUT, _attend)
AttentionMaskInterface.register(WITH_CUT, capture.mask)
