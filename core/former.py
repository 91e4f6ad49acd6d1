"""What results of the former schema said in their notes alone, as the columns that hold it today."""

import re

_UNIT = re.compile(r"\((?:\d+ )?(base models|questions by (?:relation|subject))\)$")
_FIFTH = re.compile(r"accuracy gap, (fifth \d)\b")
_THIRDS = {
    "accuracy gap, best known third": "third 1",
    "accuracy gap, middle third": "third 2",
    "accuracy gap, least known third": "third 3",
}


def stratum_and_unit(note: str, result: str) -> tuple[str | None, str | None]:
    """Return `stratum` and `unit` of a former row of predictions.parquet.

    A language model's notes end with the unit in brackets; the theory's bear none, as worlds are its only unit. The
    unit is that of the interval, so that a row without one (`low` is null) has none, whatever this returns.

    Args:
        result: under its former name or today's.
    """
    fifth, unit = _FIFTH.match(note), _UNIT.search(note)
    stratum = (fifth[1] if fifth else _THIRDS.get(note)) if result == "d" else None
    return stratum, unit[1] if unit else "worlds"
