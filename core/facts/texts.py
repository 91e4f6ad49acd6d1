"""A file's value as text: as one would write it, in Unicode's composed form; and what that changed, to be counted."""

import math
import re
import unicodedata
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

WHOLE = "hold a whole number as 1982.0: read without .0"
TRUTH = "hold a truth value: read as true or false"
DATE = "hold a date or a time: read as ISO text"
UNICODE = "are not in Unicode's composed form (NFC), or hold invisible characters: composed, those left out"
FULL_WIDTH = "hold full-width letters or digits, which match only the same: kept"
NULLS = "hold a list with nulls: those left out"
SQUAD = "hold {text: …}: its texts are the answers"
TRIVIA_QA = "hold {value: …, aliases: …}: these are the answers, the value first"
THOUSANDS = "hold a popularity as 1,234: read as 1234"
"""What can be changed or found in a cell, in the words of the note that counts the cells."""

# Joiners are letters' own in Arabic's and India's scripts and in emoji: there they stay. Elsewhere all are rubble.
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    "|(?<![\u0600-\u1cff\u2190-\U0010ffff])[\u200c\u200d]"
)
_FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_EXACT = 2**53
"""Up to here a float that is a whole number is that number and no rounded one."""


def written(value: Any) -> tuple[str, list[str]]:
    """Return a value as text without surrounding blanks, and what of the above was done or found.

    Raises:
        ValueError: it is neither text, number, truth value nor date.
    """
    text, found = _plain(value)
    cleaned = clean(text)
    if cleaned != text.strip():
        found.append(UNICODE)
    if _FULL_WIDTH.search(cleaned):
        found.append(FULL_WIDTH)
    return cleaned, found


def clean(text: str) -> str:
    """Return the text composed (NFC), without invisible characters and surrounding blanks."""
    return composed(text).strip()


def composed(text: str) -> str:
    """Return the text composed (NFC), without invisible characters."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def _plain(value: Any) -> tuple[str, list[str]]:
    """Return the value as one would write it, and what was done for that."""
    if isinstance(value, str):
        return value, []
    if isinstance(value, bool):
        return str(value).lower(), [TRUTH]
    if isinstance(value, int):
        return str(value), []
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return _number(value)
    if isinstance(value, datetime) and value.time() == time():  # a date, as most libraries store it
        return value.date().isoformat(), [DATE]
    if isinstance(value, date | time):
        return value.isoformat(), [DATE]
    raise ValueError(f"{type(value).__name__} is neither text, number, truth value nor date")


def _number(value: float | Decimal) -> tuple[str, list[str]]:
    """Return a whole number without its .0, for a gap makes floats of a column's integers; any other as it is."""
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    if abs(value) < _EXACT and value == int(value):
        return str(int(value)), [WHOLE] if "." in text else []
    return text, []
