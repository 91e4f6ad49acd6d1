"""The random states of runs: which worlds, splits and batches, and what --seeds asks for, in both flows alike."""

from dataclasses import dataclass
from typing import NamedTuple

from core.errors import InputError


class Cell(NamedTuple):
    """The three kinds of randomness of one run."""

    pretrain: int
    """The world and the base model."""
    split: int
    """The held-out set, the random half, ties."""
    seed: int
    """Finetuning: its batches, and in a language model adapter and dropout."""


@dataclass(frozen=True)
class Seeds:
    """The random states to run, each kind counted from 0."""

    seeds: int = 1
    """Replications: each draws everything anew, world and base model (unless it is a published one), split and batches.
    Beside one of the next two flags: finetuning seeds of every base model and split."""
    pretrain_seeds: int | None = None
    """Worlds and base models, each with every split and finetuning seed."""
    split_seeds: int | None = None
    """Held-out sets and random halves of each base model, each with every finetuning seed."""
    seed: int | None = None
    """This one replication (or finetuning seed) instead of a count."""

    def cells(self, *, pretrains: bool = True) -> list[Cell]:
        """Return the random states asked for.

        Args:
            pretrains: Whether base models have a seed; a published one has not.

        Raises:
            InputError: a count below 1, or a negative seed.
        """
        counts = {"seeds": self.seeds, "pretrain-seeds": self.pretrain_seeds, "split-seeds": self.split_seeds}
        for flag, value in counts.items():
            if value is not None and value < 1:
                raise InputError(f"--{flag} is {value}: it counts random states, so it must be at least 1.")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is {self.seed}: it must lie between 0 and {2**31 - 1:,}.")
        chosen = range(self.seeds) if self.seed is None else [self.seed]
        if self.pretrain_seeds is None and self.split_seeds is None:
            return [Cell(k if pretrains else 0, k, k) for k in chosen]
        worlds, splits = range(self.pretrain_seeds or 1), range(self.split_seeds or 1)
        return [Cell(p, q, k) for p in worlds for q in splits for k in chosen]
