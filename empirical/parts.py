"""What is kept of a study's runs before they are whole: parts, each made by one process at a time.

Any number of processes may be at one study. A part that another one is making is left to it, and is taken over once
that one has died: the system frees its lock.
"""

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import config_json, lock, runs
from core.columns import Columns
from core.errors import InputError
from core.runs import Run
from empirical.measure import Measured


@dataclass(frozen=True, eq=False)
class Part:
    """What is kept of one arm before the run is whole."""

    arm: str
    measured: Measured | None = None
    choice: dict[str, Any] = field(default_factory=dict)
    trace: Columns = field(default_factory=dict)
    rates: Sequence[Columns] = ()
    """A table for each learning rate that was tried."""
    seconds: float = 0.0
    """What was spent on it before."""
    throughput: Mapping[str, Any] = field(default_factory=dict)
    """What its finetuning reached."""


@dataclass(eq=False)
class Parts:
    """The parts of the runs on one base model; of other weights, facts or settings there are none among them."""

    root: Path
    """Folder of the runs of all splits and seeds."""
    config: Mapping[str, Any]
    facts_hash: str | None
    model: Mapping[str, Any]
    """What they depend on of the base model."""
    overwrite: bool
    n_made: int = 0
    """How many were made by this process."""

    def work(self, folder: Path) -> Path:
        """Return where a part's checkpoints and pieces lie, apart from those of another config, facts or weights."""
        depends = config_json.config_hash([self.config, self.facts_hash, self.model])
        return folder.with_name(f"{folder.name}.{depends[:16]}.work")

    def forget(self, folder: Path) -> None:
        """Remove a part's checkpoints and pieces, those of other configs too."""
        named = re.compile(rf"{re.escape(folder.name)}\.[0-9a-f]{{16}}\.work")
        for work in folder.parent.glob("*.work"):
            if named.fullmatch(work.name):
                shutil.rmtree(work, ignore_errors=True)

    def claim(self, place: Path) -> AbstractContextManager[bool]:
        """Hold a place under the root as long as the block runs, and give True; False if another process holds it."""
        return claimed(self.root, ".".join(place.relative_to(self.root).parts))

    def is_there(self, folder: Path, *, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Return whether a part is kept; InputError where one of something else is, unless it is to be overwritten.

        Args:
            is_over: Whether its run has been written, so that its parts may be gone.
        """
        try:
            return runs.is_done(folder, self.config, self.facts_hash, self.model)
        except InputError:
            if self.overwrite or is_over():
                return False
            raise

    def keep(
        self,
        folder: Path,
        make: Callable[[], Part],
        *,
        is_over: Callable[[], bool] = lambda: False,
        is_whole: Callable[[], bool] = lambda: True,
        leaves_work: bool = False,
    ) -> bool:
        """Return whether a part is kept, made now if nobody else is making it.

        Args:
            is_whole: Whether what belongs to it elsewhere is there, too.
            leaves_work: Its checkpoints and pieces will be read again.
        """
        if self.is_there(folder, is_over=is_over) and is_whole():
            return True
        with self.claim(folder) as is_held:
            if not is_held:
                return False
            # Its last holder may have made it, or have written the run.
            if is_over() or (self.is_there(folder) and is_whole()):
                return True
            self._write(folder, make)
            if not leaves_work:
                self.forget(folder)
        return True

    def _write(self, folder: Path, make: Callable[[], Part]) -> None:
        started = time.monotonic()
        kept = make()
        report = {"config": self.config, "facts_hash": self.facts_hash, "arm": kept.arm, "choice": kept.choice}
        report |= {"model": self.model, "seconds": kept.seconds + time.monotonic() - started}
        report["throughput"] = dict(kept.throughput)
        tables: dict[str, Columns | Sequence[Columns]] = {"trace": kept.trace} if kept.trace else {}
        if kept.rates:
            tables["rates"] = kept.rates
        arrays = None
        if kept.measured is not None:
            report["metrics"] = kept.measured.metrics
            tables |= {"facts": kept.measured.facts, "attention": kept.measured.attention}
            arrays = {"by_question": {"mass": kept.measured.by_question}}
        runs.write_run(folder, report, tables, arrays, overwrite=True)
        self.n_made += 1


def claimed(root: Path, key: str) -> AbstractContextManager[bool]:
    """Hold a key of the runs under a folder as long as the block runs, if it is free; gives whether it is held."""
    return lock.held(root / ".locks" / key, wait=False)


def columns(part: Run, name: str) -> Columns:
    """Return a table of a part, or of a run, as columns."""
    table = part.table(name)
    return dict(zip(table.column_names, table.columns, strict=True))
