"""Runs of one study: each arm's results kept as soon as they are there, and one directory written when all are.

Several processes on one study divide it: the base model, its scoring, each (arm, rate) and each (arm, seed) are made by
one of them, and each comes back for what the others had when it passed.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from core import runs
from core.facts.record import FactSet
from core.seeds import Cell
from empirical import config as configs
from empirical import facts, room, study
from empirical.cell import Arms, written
from empirical.config import Config
from empirical.progress import Progress, forwards, part
from empirical.shared import FLOW as FLOW
from empirical.shared import Job, Shared

WAIT = 0.5
"""Seconds between looks at what other processes are doing."""


class Made(NamedTuple):
    """What this process did of the runs."""

    n_written: int
    is_last: bool
    """Whether the last of all was one of them: so of one process alone."""


Engine = Callable[[Job, Sequence[Cell], Progress], Made]
"""Makes the runs of a study, with whatever other processes are at them."""


def run(
    config: Config,
    given: FactSet | None,
    name: str,
    wanted: Sequence[Cell],
    out: Path,
    *,
    overwrite: bool = False,
    keeps: bool = False,
    engine: Engine | None = None,
    progress: Progress,
) -> Made:
    """Make the runs, in this process unless another engine is given.

    A run that was interrupted goes on after its last arm or checkpoint, whoever made it.

    Args:
        keeps: Whether the arms' models are kept beside the runs.
        progress: Called with what is being done, and how many of the runs are done (with a fraction).
    """
    configs.check(config)
    replaced = {cell: written(runs.directory(out, FLOW, name, cell)) for cell in wanted} if overwrite else {}
    job = Job(config, given, facts.fingerprint(given), name, out, overwrite, keeps, replaced)
    return (engine or local)(job, wanted, progress)


def local(job: Job, wanted: Sequence[Cell], progress: Progress) -> Made:
    """Make the runs, one after another."""
    if not job.config.pretrains:
        room.check(job.config, study.models_config(job.config))
    cells = arms(job, wanted)
    shared = {one.shared for one in cells}
    left, told, n_written = list(cells), forwards(progress), 0
    while left:
        n_made = sum(one.n_made for one in shared)
        for one in list(left):
            label, n_done = "/".join(map(str, one.cell)), len(cells) - len(left)
            if one.advance(part(told, label, n_done, n_done + 1)):
                left.remove(one)
                if all(other.shared is not one.shared for other in left):
                    one.shared.questions = None  # they are large
                told(label, n_done + 1.0)
                n_written += one.is_ours
        if left and n_made == sum(one.n_made for one in shared):
            told("waiting for another process", 0.0)
            time.sleep(WAIT)
    return Made(n_written, bool(cells) and max(cells, key=Arms.written).is_ours)


def arms(job: Job, wanted: Sequence[Cell]) -> list[Arms]:
    """Return the runs; those of one base model and split share what is made for it."""
    shared: dict[tuple[int, int], Shared] = {}
    made = []
    for cell in wanted:
        own = shared.setdefault(cell[:2], Shared(job, cell.pretrain, cell.split, []))
        own.seeds.append(cell.seed)
        made.append(Arms(job, own, cell))
    return made
