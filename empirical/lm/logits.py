"""Logits where they are wanted, and nowhere else: a head of 262,000 outputs costs more than all layers below it.

They are few, and computed in float32 where the layers below are not: with bfloat16's eight bits the likeliest tie.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch.nn import functional


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
        with precise(model):
            yield
    finally:
        hook.remove()


@contextmanager
def precise(model: torch.nn.Module) -> Iterator[None]:
    """Let the passes within compute logits in float32, of weights in half precision and under autocast.

    A head that is more than a matrix (an adapter's, a quantised one) is left as it is.
    """
    owner: Any = model
    head: Any = owner.get_output_embeddings()
    if type(head) is not torch.nn.Linear or "forward" in vars(head):
        yield
        return
    is_half = head.weight.dtype in (torch.bfloat16, torch.float16)
    if not is_half and not torch.is_autocast_enabled(head.weight.device.type):
        yield
        return

    def product(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            return functional.linear(hidden.float(), head.weight.float(), bias)

    replaced: Any = head
    replaced.forward = product
    try:
        yield
    finally:
        del replaced.forward
