"""How long work says how far it is."""

from collections.abc import Callable

from empirical import processes

Progress = Callable[[str, float], None]
"""Called with what is being done, and which share of the work is done, 0 to 1."""
Done = Callable[[int | float], None]
"""Called with how many more are done."""


def silent(doing: str, share: float) -> None:
    """Say nothing."""


def uncounted(n: int | float) -> None:
    """Count nothing."""


def forwards(progress: Progress) -> Progress:
    """Return the same progress, which never goes back: work that is gone through again is done already."""
    furthest = 0.0

    def tell(doing: str, share: float) -> None:
        nonlocal furthest
        furthest = max(furthest, share)
        progress(doing, furthest)

    return tell


def part(progress: Progress, doing: str, start: int | float, stop: int | float) -> Progress:
    """Return the progress of a part of the work, which takes it from one share to another."""
    return lambda detail, share: progress(f"{doing} {detail}".strip(), start + share * (stop - start))


def counter(progress: Progress, total: int | float) -> Done:
    """Return the function that counts how many of the total are done; other processes are as far as this one."""
    n_done = 0.0

    def count(n: int | float) -> None:
        nonlocal n_done
        n_done += n * processes.count()
        progress("", min(1.0, n_done / total))

    return count
