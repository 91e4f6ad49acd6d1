"""Logits where they are wanted, and nowhere else: a head of 262,000 outputs costs more than all layers below it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool


@contextmanager
def only(model: torch.nn.Module, wanted: Bool[torch.Tensor, "row token"]) -> Iterator[None]:
    """Let the passes within compute logits at the wanted places alone: one row of them, in reading order.

    What enters the head is cut, and not what leaves it, so that an architecture may do to its logits what it will
    (scale them, cap them). A pass must read `row` rows of `token` tokens.
    """

    def cut(head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = given
        return hidden[wanted.to(hidden.device)][None], *rest

    head: Any = model
    hook = head.get_output_embeddings().register_forward_pre_hook(cut)
    try:
        yield
    finally:
        hook.remove()
