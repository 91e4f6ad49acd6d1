"""A lock between processes, which the system frees when its holder dies, however it does."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import InputError


@contextmanager
def held(path: Path, *, wait: bool, setting: str = "--out DIR") -> Iterator[bool]:
    """Hold the lock as long as the block runs, if it is free or we wait for it; gives whether it is held.

    Args:
        setting: What names another place.

    Raises:
        InputError: the file cannot be written, or its file system has no locks (some Lustre, NFS and FUSE mounts).
    """
    # Not soft: such a lock would outlive a killed holder.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            lock.acquire()
    except OSError as error:
        raise InputError(
            f"cannot lock {path}: {error.strerror or error}.\n"
            f"Fix the permissions there, or name a place on a disk with locks by {setting}."
        ) from error
    try:
        yield lock.is_locked
    finally:
        lock.release()
