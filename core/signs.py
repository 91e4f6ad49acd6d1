"""The theory's signs (a) to (g), which any model can be held against: what each says, and what an interval decides."""

from collections.abc import Iterable, Mapping
from typing import Any

from core.statistics import Interval, PairedInterval

SIGNS = {
    "a": "Accuracy is higher after finetuning on well-known facts.",
    "b": "Attention to the subject is higher after finetuning on well-known facts.",
    "c": "Generic answers are rarer after finetuning on well-known facts.",
    "d": "The accuracy gap is largest at middling knownness.",
    "f": "The random half lies between the top and the bottom half.",
}
"""(e), growth of the gap with the contrast between the halves, needs several worlds: the screen of worlds."""
OF_ANSWERS = {"g": "At equal knownness, facts with rarer answers are the better ones to finetune on (R9)."}
"""The sign that needs knownness and rarity of answers crossed."""


def verdict(measured: Interval | PairedInterval, predicted: float = 1.0) -> str:
    """Return whether a predicted sign holds or fails; undecided where the interval holds zero, or is missing.

    Args:
        predicted: Any number of the predicted sign.
    """
    if not measured.low * measured.high > 0:
        return "undecided"
    return "holds" if predicted * measured.mean > 0 else "fails"


def overall(rows: Iterable[Mapping[str, Any]], sign: str) -> str:
    """Return whether a sign holds: only if all its rows do; it fails if one of them fails."""
    verdicts = {row["verdict"] for row in rows if row["result"] == sign} - {"reported"}
    if "fails" in verdicts:
        return "fails"
    return "holds" if verdicts == {"holds"} else "undecided"
