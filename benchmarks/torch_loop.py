"""Pretraining as a PyTorch user would write it: the same model, world and update as the simulator's table form.

logits = ½ (v_s + v_r), loss = mean cross entropy over the batch, SGD on both value tables. What usually slows such a
loop is avoided: facts are drawn ahead of the steps, nothing is read back from the device, gradients are dropped rather
than zeroed, and the optimizer is fused where it can be.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from theory.facts import FactStore

TABLE_RATE = 20.0
"""SGD rate of the value tables: the table form's share, ½, of the dense form's rate 40."""


class Batches(NamedTuple):
    """The facts of every step."""

    subject: Int[torch.Tensor, "step fact"]
    relation: Int[torch.Tensor, "step fact"]
    answer: Int[torch.Tensor, "step fact"]


def draw(store: FactStore, n_steps: int, *, batch_size: int, seed: int, device: str = "cpu") -> Batches:
    """Return batches drawn by exposure, on the device."""
    rng = np.random.default_rng(seed)
    facts = rng.choice(len(store.subject), (n_steps, batch_size), p=store.exposure)
    columns = (store.subject, store.relation, store.answer)
    return Batches(*(torch.from_numpy(ids[facts]).to(device, torch.int64) for ids in columns))


class ValueTables(torch.nn.Module):
    """The values v_s and v_r, both zero at first."""

    def __init__(
        self, n_subjects: int, n_relations: int, n_outputs: int, *, is_sparse: bool = False, device: str = "cpu"
    ) -> None:
        super().__init__()

        def table(n_rows: int) -> torch.nn.Embedding:
            # Not torch.zeros: its pages would be fetched from the system only as the timed loop first touches them.
            rows = torch.full((n_rows, n_outputs), 0.0, device=device)
            return torch.nn.Embedding.from_pretrained(rows, freeze=False, sparse=is_sparse)

        self.subject, self.relation = table(n_subjects), table(n_relations)

    def forward(
        self, subject: Int[torch.Tensor, " fact"], relation: Int[torch.Tensor, " fact"]
    ) -> Float[torch.Tensor, "fact output"]:
        return 0.5 * (self.subject(subject) + self.relation(relation))


def train_dense(tables: ValueTables, batches: Batches) -> None:
    """Train by autograd with dense gradients: every step passes over the whole tables. SGD is fused."""
    _train(tables, torch.optim.SGD(tables.parameters(), lr=TABLE_RATE, fused=True), batches)


def train_sparse(tables: ValueTables, batches: Batches) -> None:
    """Train by autograd with gradients for the batch's rows only (tables made with `is_sparse`)."""
    # PyTorch has no fused SGD for sparse gradients.
    _train(tables, torch.optim.SGD(tables.parameters(), lr=TABLE_RATE), batches)


@torch.no_grad()
def train_closed_form(tables: ValueTables, batches: Batches) -> None:
    """Train without autograd: the gradient p − e_a by hand, added to the batch's rows."""
    n_facts = batches.subject.shape[1]
    rows = torch.arange(n_facts, device=batches.subject.device)
    for subject, relation, answer in zip(*batches, strict=True):
        pull = torch.softmax(tables(subject, relation), dim=1)
        pull[rows, answer] -= 1
        for table, index in ((tables.subject, subject), (tables.relation, relation)):
            table.weight.index_add_(0, index, pull, alpha=-0.5 * TABLE_RATE / n_facts)


class Loop(NamedTuple):
    """One way to write it."""

    title: str
    train: Callable[[ValueTables, Batches], None]
    is_sparse: bool


LOOPS = {
    "dense": Loop("PyTorch, dense gradients", train_dense, False),
    "sparse": Loop("PyTorch, sparse gradients", train_sparse, True),
    "closed_form": Loop("PyTorch, by hand", train_closed_form, False),
}


def _train(tables: ValueTables, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    for subject, relation, answer in zip(*batches, strict=True):
        loss = functional.cross_entropy(tables(subject, relation), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
