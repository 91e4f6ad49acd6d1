"""Long work kept piece by piece, each whole or not at all, so that an interrupted one goes on after its last piece."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core import runs


@dataclass(frozen=True)
class Pieces:
    """A folder of pieces that belong to one piece of work; without a folder nothing is kept."""

    folder: Path | None = None
    """Named by all that its pieces depend on: nothing in it is compared with anything."""

    def array(
        self, name: str, make: Callable[[], np.ndarray], *, found: Callable[[], object] = lambda: None
    ) -> np.ndarray:
        """Return the array of this name, made now unless it is kept; InputError where the disk refuses it.

        Args:
            found: Called where it is kept: what `make` would have counted is done.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npy"
        _keep(path, make, found, lambda file, made: np.save(file, made, allow_pickle=False))
        return np.load(path, allow_pickle=False)

    def texts(
        self, name: str, make: Callable[[], list[str]], *, found: Callable[[], object] = lambda: None
    ) -> list[str]:
        """Return the texts of this name, likewise."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.json"
        _keep(path, make, found, lambda file, made: file.write(json.dumps(made).encode()))
        return json.loads(path.read_bytes())

    def under(self, name: str) -> "Pieces":
        """Return the pieces of a part of the work."""
        return Pieces(self.folder and self.folder / name)

    def forget(self) -> None:
        """Remove them: the work is done, and kept otherwise."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _keep(
    path: Path, make: Callable[[], Any], found: Callable[[], object], write: Callable[[BinaryIO, Any], object]
) -> None:
    """Make and write what is not there."""
    if path.exists():
        found()
        return
    made = make()
    runs.replace_file(path, lambda file: write(file, made))


UNKEPT = Pieces()
"""Nothing is kept."""
