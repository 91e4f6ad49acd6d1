"""Long work kept piece by piece, each whole or not at all, so that an interrupted one goes on after its last piece."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import writing
from empirical import processes


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
        return self.arrays(name, lambda: {"array": make()}, found=found)["array"]

    def arrays(
        self, name: str, make: Callable[[], dict[str, np.ndarray]], *, found: Callable[[], object] = lambda: None
    ) -> dict[str, np.ndarray]:
        """Return the arrays of this name, likewise: all of them or none."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npz"
        if path.exists():
            found()
        else:
            made = make()
            writing.replace_file(path, lambda file: np.savez(file, allow_pickle=False, **made))
        return dict(np.load(path, allow_pickle=False))

    def jointly(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the arrays of this name, which all processes make together; the others make each its own."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npz"
        if processes.agreed(path.exists()):
            return dict(np.load(path, allow_pickle=False))
        made = make()
        if processes.is_first():
            writing.replace_file(path, lambda file: np.savez(file, allow_pickle=False, **made))
        return made

    def under(self, name: str) -> "Pieces":
        """Return the pieces of a part of the work."""
        return Pieces(self.folder and self.folder / name)

    def forget(self) -> None:
        """Remove them: the work is done, and kept otherwise."""
        if self.folder is not None and processes.is_first():
            shutil.rmtree(self.folder, ignore_errors=True)


UNKEPT = Pieces()
"""Nothing is kept."""
