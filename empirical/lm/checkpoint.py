"""A training's state on disk: what is needed to go on as if nothing had happened."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim.lr_scheduler import LRScheduler

from core import runs
from core.errors import InputError
from empirical import processes

OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
"""Frozen weights are not stored: an adapter's checkpoint is as small as the adapter."""
PATIENCE = 120.0
"""Seconds of training that an interruption may cost, whatever the number of steps."""
SHARE = 0.05
"""Share of the time, at most, that goes into what PATIENCE asks for: a large model waits longer."""


@dataclass(eq=False)
class State:
    """A model, its optimizer and schedule, and the file that holds them between runs."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    path: Path
    every: int
    """Number of steps after which the state is kept, however fast they are."""
    _kept_at: float = field(default_factory=time.monotonic, init=False)
    _cost: float = field(default=0.0, init=False)
    """Seconds that keeping it took."""

    def is_due(self, step: int, *, last: int) -> bool:
        """Return whether the state after this many steps of so many should be kept."""
        waited = time.monotonic() - self._kept_at
        is_late = processes.agreed(waited > max(PATIENCE, self._cost / SHARE))
        return is_late or (step % self.every == 0 and step < last)

    def save(self, step: int, record: Any) -> None:
        """Write the state after this many steps, with a record of one's own: whole, or not at all."""
        started = time.monotonic()
        weights, moments = get_state_dict(self.model, self.optimizer, options=OPTIONS)
        state = {"step": step, "weights": weights, "moments": moments, "schedule": self.schedule.state_dict()}
        random = processes.gathered({processes.number(): _random()})
        state |= {"record": record, "others": random[1:]} | random[0]
        if processes.is_first():
            runs.replace_file(self.path, lambda file: torch.save(state, file))
        self._kept_at, self._cost = time.monotonic(), time.monotonic() - started

    def resume(self) -> tuple[int, Any] | None:
        """Set everything to the stored state, and return its step and record; None if nothing is stored.

        Raises:
            InputError: more or fewer processes stored it.
        """
        if not processes.agreed(self.path.exists()):
            return None
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        random = [state, *state.get("others", [])]
        if len(random) != processes.count():
            raise InputError(
                f"{self.path} is of a training by {len(random)} processes, and this is {processes.count()}.\n"
                f"Start {len(random)}, or remove {self.path.parent} to begin anew."
            )
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["moments"],
            options=OPTIONS,
        )
        self.schedule.load_state_dict(state["schedule"])
        own = random[processes.number()]
        torch.set_rng_state(own["random"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(own["random_cuda"])
        return state["step"], state["record"]


def _random() -> dict[str, Any]:
    """Return this process's random states, which dropout is drawn from."""
    cuda = {"random_cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {}
    return {"random": torch.get_rng_state()} | cuda
