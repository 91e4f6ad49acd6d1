"""How far rankings of the same facts agree: by another measure, other prompts, or another model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import InputError
from empirical import knownness

COLUMNS = ("id", "knownness", "top")


class Agreement(NamedTuple):
    """Two rankings compared on the training facts that both have."""

    n: int
    top: float
    """Share of the first one's top half that is in the second one's too; halves drawn at random share half."""
    rank_correlation: float
    """Spearman's, of the scores; nan where either is the same for all."""


def read(path: Path) -> dict[str, tuple[float, bool]]:
    """Return score and whether it is in the top half, by id, of the training facts of a scores.parquet.

    Raises:
        InputError: no such file, or one that `score` did not write.
    """
    if path.is_dir():
        path = path / "scores.parquet"
    try:
        table = pq.read_table(path, columns=[*COLUMNS, "role"])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read as scores ({str(error).splitlines()[0][:120]}).\n"
            "Name files, or their folders, that `python -m empirical score` wrote."
        ) from error
    rows = zip(*(table[name].to_pylist() for name in COLUMNS), table["role"].to_pylist(), strict=True)
    return {name: (value, is_top) for name, value, is_top, role in rows if role == "train"}


def agreement(one: dict[str, tuple[float, bool]], other: dict[str, tuple[float, bool]]) -> Agreement:
    """Return how far the two agree on the facts that both are trained on; InputError where there are none."""
    shared = [name for name in one if name in other]
    if not shared:
        raise InputError("the files share no training fact.\nScore the same questions with the same --split-seed.")
    a, b = (np.array([scores[name] for name in shared], dtype=float) for scores in (one, other))
    is_top = a[:, 1] == 1
    top = float(b[is_top, 1].mean()) if is_top.any() else float("nan")
    return Agreement(len(shared), top, knownness.rank_correlation(a[:, 0], b[:, 0]))


def table(files: Sequence[Path]) -> list[list[Agreement]]:
    """Return the agreement of each file with each."""
    found = [read(path) for path in files]
    return [[agreement(one, other) for other in found] for one in found]
