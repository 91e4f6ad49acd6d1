"""A training's state on disk: what is needed to go on as if nothing had happened."""

import errno
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim.lr_scheduler import LRScheduler

from core import writing
from core.errors import InputError
from empirical import processes

ENTRIES = {"step", "weights", "moments", "schedule", "record", "random"}
"""What a checkpoint holds at least."""

OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
"""Frozen weights are not stored: an adapter's checkpoint is as small as the adapter."""
COMPARED = StateDictOptions(ignore_frozen_params=True)
"""The same weights where they are, only to be looked at."""
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
            writing.replace_file(self.path, lambda file: _write(state, file))
        self._kept_at, self._cost = time.monotonic(), time.monotonic() - started

    def resume(self) -> tuple[int, Any] | None:
        """Set everything to the stored state, and return its step and record; None if nothing is stored.

        Another number of processes goes on with the same batches, and with the same losses but for rounding, where
        nothing is drawn at random in a pass.

        Raises:
            InputError: the file is damaged, does not hold just the weights that are trained here, or is of another
                number of processes and of a model with dropout, which each draws for itself.
        """
        if not processes.agreed(self.path.exists()):
            return None
        state = self._read()
        self._check(state)
        random = [state, *state.get("others", [])]
        is_as_before = len(random) == processes.count()
        if not is_as_before and (name := _drawn(self.model)):
            raise InputError(
                f"{self.path} is of a training by {len(random)} processes, and this is {processes.count()}: {name} is "
                f"drawn by each of them.\nStart {len(random)}, or remove {self.path.parent} to begin anew."
            )
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["moments"],
            options=OPTIONS,
        )
        self.schedule.load_state_dict(state["schedule"])
        if is_as_before:
            own = random[processes.number()]
            torch.set_rng_state(own["random"])
            if torch.cuda.is_available() and "random_cuda" in own:
                torch.cuda.set_rng_state_all(own["random_cuda"])
        return state["step"], state["record"]

    def _read(self) -> dict[str, Any]:
        """Return what the file holds; InputError where it is damaged."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise self._refusal("is empty or damaged") from error
        if not isinstance(state, dict) or not set(state) >= ENTRIES:
            raise self._refusal("is no checkpoint of a training")
        return state

    def _check(self, state: Mapping[str, Any]) -> None:
        """Raise InputError for a checkpoint that does not cover what is trained: it would go on untrained."""
        own, moments = cast(tuple[Any, Any], get_state_dict(self.model, self.optimizer, options=COMPARED))
        stored = state["weights"]
        if absent := sorted(set(own) - set(stored)):
            raise self._refusal(f"does not hold {len(absent)} of {len(own)} trained weights, {absent[0]} among them")
        if more := sorted(set(stored) - set(own)):
            raise self._refusal(f"holds {len(more)} weights that are not trained here, {more[0]} among them")
        other = [name for name, value in own.items() if _form(value) != _form(stored[name])]
        if other:
            shapes = " and ".join(_form(one[other[0]]) for one in (stored, own))
            raise self._refusal(f"holds other weights than this model's: {other[0]} is {shapes}")
        groups, kept = (
            sorted(name for group in one["param_groups"] for name in group["params"])
            for one in (moments, state["moments"])
        )
        has_moments = bool(state["moments"]["state"]) or not state["step"]
        if groups != kept or not has_moments or not set(state["moments"]["state"]) <= set(groups):
            raise self._refusal("does not hold the moments of what is trained")

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{self.path} {what}.\nPut back the one that belongs to this training, or remove {self.path.parent} to "
            "begin anew."
        )


def _write(state: Any, file: Any) -> None:
    """Write a checkpoint; OSError where the disk refuses it, for which PyTorch raises RuntimeError."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def _form(value: Any) -> str:
    """Return a weight's shape and type."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{' × '.join(map(str, value.shape))} in {str(value.dtype).removeprefix('torch.')}"


def _drawn(model: Any) -> str | None:
    """Return what of a model's passes is drawn at random in training; None where nothing is."""
    if any(isinstance(one, torch.nn.modules.dropout._DropoutNd) and one.p > 0 for one in model.modules()):
        return "dropout"
    settings = model.config.to_dict() if hasattr(model, "config") else {}
    rates = (name for name, value in settings.items() if "drop" in name and value)
    return next(rates, None)


def _random() -> dict[str, Any]:
    """Return this process's random states, which dropout is drawn from."""
    cuda = {"random_cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {}
    return {"random": torch.get_rng_state()} | cuda
