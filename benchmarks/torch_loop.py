"""Both stages as a PyTorch user would write them: the same model, world and updates as the simulator's factored model.

Pretraining: logits = ½ (v_s + v_r), loss = mean cross entropy over the batch, SGD on both value tables. Finetuning: the
attention logits of (subject, relation, template) by SGD, the values frozen. What usually slows such a loop is avoided:
facts are drawn ahead of the steps, nothing is read back from the device, gradients are dropped rather than zeroed, and
the optimizer is fused where it can be.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from core.facts.store import FactStore

TABLE_RATE = 20.0
"""SGD rate of the value tables: the factored model's share, ½, of the dense model's rate 40."""
SHARED_SHARE = 0.5
"""SGD rate of the attention logits that all subjects, or all relations, share; their own move at the rest of rate 1."""


class Batches(NamedTuple):
    """The facts of every step."""

    subject: Int[torch.Tensor, "step fact"]
    relation: Int[torch.Tensor, "step fact"]
    answer: Int[torch.Tensor, "step fact"]


def draw(
    store: FactStore,
    n_steps: int,
    *,
    batch_size: int,
    seed: int,
    device: str = "cpu",
    arm: Int[np.ndarray, " row"] | None = None,
) -> Batches:
    """Return batches on the device, drawn by exposure; or uniformly from an arm, as finetuning does."""
    rng, shape = np.random.default_rng(seed), (n_steps, batch_size)
    facts = rng.choice(len(store.subject), shape, p=store.exposure) if arm is None else rng.choice(arm, shape)
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


class Attention(torch.nn.Module):
    """The attention logits of question prompts over frozen values, uniform at first."""

    def __init__(self, tables: ValueTables, template: Float[torch.Tensor, " output"], *, is_sparse: bool = False):
        super().__init__()
        self.values = (tables.subject.weight.detach(), tables.relation.weight.detach(), template)

        def logits(n_rows: int) -> torch.nn.Embedding:
            rows = torch.full((n_rows, 1), 0.0, device=template.device)
            return torch.nn.Embedding.from_pretrained(rows, freeze=False, sparse=is_sparse)

        self.subject, self.relation = logits(len(self.values[0])), logits(len(self.values[1]))
        self.shared = torch.nn.Parameter(torch.zeros(2, device=template.device))
        self.template = torch.nn.Parameter(torch.zeros((), device=template.device))

    def read(
        self, subject: Int[torch.Tensor, " fact"], relation: Int[torch.Tensor, " fact"]
    ) -> tuple[Float[torch.Tensor, "token fact"], tuple[torch.Tensor, ...], Float[torch.Tensor, "fact output"]]:
        """Return attention, the three tokens' values and the output logits."""
        by_subject = self.shared[0] + self.subject(subject)[:, 0]
        by_relation = self.shared[1] + self.relation(relation)[:, 0]
        attention = torch.stack([by_subject, by_relation, self.template.expand_as(by_subject)]).softmax(dim=0)
        values = (self.values[0][subject], self.values[1][relation], self.values[2])
        first, second, third = (weight[:, None] * value for weight, value in zip(attention, values, strict=True))
        return attention, values, first + second + third


def attend(attention: Attention, batches: Batches) -> None:
    """Finetune by autograd."""
    table_rows = [attention.subject.weight, attention.relation.weight]
    groups = [
        {"params": [attention.shared], "lr": SHARED_SHARE},
        {"params": table_rows, "lr": 1 - SHARED_SHARE},
        {"params": [attention.template], "lr": 1.0},
    ]
    optimizer = torch.optim.SGD(groups, fused=not attention.subject.sparse)
    for subject, relation, answer in zip(*batches, strict=True):
        loss = functional.cross_entropy(attention.read(subject, relation)[2], answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def attend_closed_form(attention: Attention, batches: Batches) -> None:
    """Finetune without autograd: the gradient α_i (u_i − Σ_j α_j u_j), u_i = (p − e_a)ᵀ v_i, by hand."""
    n_facts = batches.subject.shape[1]
    rows = torch.arange(n_facts, device=batches.subject.device)
    for subject, relation, answer in zip(*batches, strict=True):
        weight, values, output = attention.read(subject, relation)
        pull = torch.softmax(output, dim=1)
        pull[rows, answer] -= 1
        use = torch.stack([(pull * value).sum(dim=1) for value in values])
        step = weight * (use - (weight * use).sum(dim=0)) / -n_facts
        attention.shared.add_(step[:2].sum(dim=1), alpha=SHARED_SHARE)
        attention.subject.weight[:, 0].index_add_(0, subject, step[0], alpha=1 - SHARED_SHARE)
        attention.relation.weight[:, 0].index_add_(0, relation, step[1], alpha=1 - SHARED_SHARE)
        attention.template.add_(step[2].sum())


class Loop(NamedTuple):
    """One way to write them."""

    title: str
    train: Callable[[ValueTables, Batches], None]
    is_sparse: bool
    finetune: Callable[[Attention, Batches], None]


LOOPS = {
    "dense": Loop("PyTorch, dense gradients", train_dense, False, attend),
    "sparse": Loop("PyTorch, sparse gradients", train_sparse, True, attend),
    "closed_form": Loop("PyTorch, by hand", train_closed_form, False, attend_closed_form),
}


def _train(tables: ValueTables, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    for subject, relation, answer in zip(*batches, strict=True):
        loss = functional.cross_entropy(tables(subject, relation), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
