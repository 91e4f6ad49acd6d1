"""Files and folders that are there whole or not at all: they are written beside their place, and then renamed."""

import errno
import glob
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from core.errors import InputError

HOST = re.sub(r"\W", "_", platform.node())
"""This machine's name, as it stands in the names of files that are being written."""
OLD = 86_400.0
"""Seconds after which a half-written file of another machine is taken for a killed process's."""


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write one file atomically: readers see the old or the new one, whole. Raises InputError when the disk refuses."""
    partial = _hidden(path, "partial")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_through(partial, write)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)


def check_writable(out: Path) -> None:
    """Create the folder and try a file in it, so that a run is refused before it computes; InputError if it cannot."""
    with _disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b"a")


@contextmanager
def folder_of(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to fill, which gets this name when the block ends: it is there whole or not at all.

    Raises InputError when the disk refuses, or when something stands there and `overwrite` is not set.
    """
    partial, replaced = _hidden(path, "partial"), _hidden(path, "replaced")
    with _disk_errors(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            if overwrite and path.exists():
                path.rename(replaced)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if replaced.exists() and not path.exists():
                replaced.rename(path)
            raise
        sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _hidden(path: Path, suffix: str) -> Path:
    """Return the path's hidden sibling of this process: no two write the same one. What killed ones left is removed."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(?:(?P<host>\w*)-(?P<process>\d+)\.)?{suffix}")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{suffix}"):
        if (named := pattern.fullmatch(leftover.name)) and _is_left(leftover, named["host"], named["process"]):
            shutil.rmtree(leftover, ignore_errors=True)
            with suppress(OSError):
                leftover.unlink()
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.{suffix}")


def _is_left(path: Path, host: str | None, process: str | None) -> bool:
    """Return whether nobody writes this file or folder any more: its process has ended, or it is old."""
    try:
        if host != HOST or process is None or os.name == "nt":  # there the signal would end the process
            return time.time() - path.stat().st_mtime > OLD
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's, or gone
        return False
    return int(process) == os.getpid()


def write_through(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through to the disk."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """See that the folder's entries, renames too, survive a power cut, where the system can."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a folder some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error} (nothing was left half-written).\n"
            "Free space or fix the permissions there, or name another place with --out DIR."
        ) from error
