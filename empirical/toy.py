"""What the toy predicts of a study: the same differences of the same arms, from the finished runs of the toy."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import runs as results
from core.errors import InputError
from core.runs import Run
from empirical import compare
from empirical.compare import Row

FLOW = "theory"


def find(folder: Path) -> list[Run]:
    """Return the finished runs of an experiment of the toy, by its folder; InputError where there are none."""
    place = folder.resolve()
    runs = results.find_runs(place.parents[1], FLOW, place.name) if place.parent.name == FLOW else []
    if not runs:
        raise InputError(
            f"--toy {folder}: no finished runs of the toy.\n"
            "Name the folder OUT/theory/EXPERIMENT; make them with python -m theory run questions --help."
        )
    return runs


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the toy's rows: those that a study of its arms would have, with intervals over worlds."""
    made = compare.of_runs(runs[0].report["experiment"], runs)
    return [row | {name: row[name].replace("base models", "worlds") for name in ("unit", "note")} for row in made]


def predicted(measured: Sequence[Row], by_toy: Sequence[Row]) -> list[Row]:
    """Return a study's rows with what the toy predicts, its interval in the note, where the toy has such a row."""
    toy = {_key(row): row for row in by_toy}
    return [row | _prediction(toy[_key(row)], row["note"]) if _key(row) in toy else row for row in measured]


def _prediction(row: Row, note: str) -> Row:
    return {
        "predicted": row["measured"],
        "note": f"{note}; the toy {row['low']:+.3f} to {row['high']:+.3f}, {row['seeds']} runs",
    }


def _key(row: Row) -> tuple[Any, ...]:
    """Return what a row measures, without what its interval counts."""
    return row["result"], row["arm"], row.get("stratum"), re.split(r" \(|;", row["note"])[0]
