"""Where the command line prints, how it shows progress, and how it ends."""

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

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


Advance = Callable[[str, float], None]
"""Told what is being done, and how many more are done; a fraction, too."""


def silence() -> None:
    """Print nothing more but errors: another process says the rest."""
    OUTPUT.quiet = True


@contextmanager
def progress(name: str, total: int) -> Iterator[Advance]:
    """Show progress and the time left on stderr: a bar, or a line now and then where there is no terminal."""
    if not total or OUTPUT.quiet:
        yield lambda doing, n: None
    elif ERRORS.is_terminal:
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), _Speed(), console=ERRORS, speed_estimate_period=600) as bar:
            task = bar.add_task(name, total=total)
            yield lambda doing, n: bar.update(task, advance=n, description=f"{name}: {doing}" if doing else None)
    else:
        lines = _Lines(name, total)
        try:
            yield lines.advance
            lines.end()
        finally:
            lines.stop.set()


class _Lines:
    """Progress where there is no terminal: a line after ten seconds, one a minute, and one at the end."""

    FIRST, INTERVAL = 10.0, 60.0

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.done: float | int = 0
        self.doing, self.started = "", time.monotonic()
        self.stop = threading.Event()
        threading.Thread(target=self._tell, daemon=True).start()

    def advance(self, doing: str, n: float | int) -> None:
        self.done += n
        self.doing = doing or self.doing

    def end(self) -> None:
        """Say that it is done; where a command fails, its error stands alone."""
        ERRORS.print(self.line(time.monotonic() - self.started), markup=False)

    def line(self, seconds: float | int) -> str:
        """Return how far it is after so many seconds."""
        spent = datetime.timedelta(seconds=int(seconds))
        left = ""
        if self.done:
            left = f", {datetime.timedelta(seconds=int(seconds * (self.total - self.done) / self.done))} left"
        doing = f" ({self.doing})" if self.doing else ""
        return f"{self.name}: {self.done:.4g} of {self.total} done in {spent}{left}{doing}"

    def _tell(self) -> None:
        wait = self.FIRST
        while not self.stop.wait(wait):
            ERRORS.print(self.line(time.monotonic() - self.started), markup=False)
            wait = self.INTERVAL


@lru_cache
def note(line: str) -> None:
    """Print a note on stderr, once however often it is given."""
    if not OUTPUT.quiet:
        ERRORS.print(line, style="yellow", markup=False)


def exit_code(command: Callable[[], int], *, interrupted: str) -> int:
    """Return what the command returns; 2 for a mistake in the input, 130 for Ctrl-C, and say either on stderr.

    141 for a closed pipe, as a shell has it.
    """
    try:
        return command()
    except InputError as error:
        ERRORS.print(f"error: {error}", markup=False, style="red")
        return 2
    except KeyboardInterrupt:
        ERRORS.print(interrupted)
        return 130
    except BrokenPipeError:  # whoever reads the output has enough of it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written nowhere at exit
        return 141


def absolute(advance: Advance) -> Advance:
    """Return a progress function that takes how many are done in all, in place of how many more."""
    done = 0.0

    def tell(doing: str, now: float) -> None:
        nonlocal done
        advance(doing, now - done)
        done = now

    return tell
