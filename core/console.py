"""Where the command line prints, and its progress bar."""

import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)

from core.errors import InputError

OUTPUT = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
ERRORS = Console(stderr=True, highlight=False, soft_wrap=True)


class _Speed(ProgressColumn):
    """How many are done each second, if it is one or more, and the time left."""

    def render(self, task: Task) -> str:
        if task.speed is None or task.time_remaining is None:
            return ""
        speed = f"{task.speed:,.1f}/s, " if task.speed >= 1 else ""
        return f"{speed}{datetime.timedelta(seconds=int(task.time_remaining))} left"


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[str, float], None]]:
    """Show a bar on stderr; gives the function that is told what is being done and how many more are done."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, _Speed(), console=ERRORS, disable=not total, speed_estimate_period=600) as bar:
        task = bar.add_task(name, total=total)
        yield lambda doing, n: bar.update(task, advance=n, description=f"{name}: {doing}" if doing else None)


def exit_code(command: Callable[[], int], *, interrupted: str) -> int:
    """Return what the command returns; 2 for a mistake in the input, 130 for Ctrl-C, either told on stderr."""
    try:
        return command()
    except InputError as error:
        ERRORS.print(f"error: {error}", markup=False, style="red")
        return 2
    except KeyboardInterrupt:
        ERRORS.print(interrupted)
        return 130


def absolute(told: Callable[[str, float], None]) -> Callable[[str, float], None]:
    """Return a progress function that takes how many are done, a fraction too, in place of how many more."""
    done = 0.0

    def tell(doing: str, now: float) -> None:
        nonlocal done
        told(doing, now - done)
        done = now

    return tell
