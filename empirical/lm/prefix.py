"""The tokens that many prompts begin with (few-shot examples): read once, keys and values copied to each batch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import DynamicCache

from empirical.lm import shape
from empirical.lm.shape import Model

MIN_LENGTH = 16
"""Tokens: a shorter common beginning is not worth a pass of its own."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The tokens that all texts begin with, and the model's keys and values of them; none of either where few."""

    tokens: tuple[int, ...]
    cache: DynamicCache | None

    def expanded(self, n: int) -> DynamicCache | None:
        """Return a copy for a batch of n rows, which the model may write to."""
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(n)
        return cache


def common(texts: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all texts begin with; of fewer than two texts none."""
    # What the first and the last in order begin with, all between them do too.
    pairs = zip(min(texts), max(texts), strict=False) if len(texts) > 1 else ()
    return [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


@torch.no_grad()
def read(model: Model, texts: Sequence[list[int]], *, longest: int) -> Prefix:
    """Return the common beginning of the texts, of at most `longest` tokens; none for a model that keeps states."""
    tokens = common(texts)[: max(longest, 0)]
    if len(tokens) < MIN_LENGTH or shape.keeps_states(model):
        return Prefix((), None)
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([tokens], device=model.device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(tuple(tokens), cache)
