"""What a model was finetuned on, kept beside it: whatever becomes of the table, it is tested on what it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from core import writing
from core.errors import InputError
from core.facts.record import Fact
from core.split import HELD_OUT, ROLES, TRAIN

FILE = "questions.parquet"
"""In a finetuned model's folder: every question that there was, with its role."""


@dataclass(frozen=True)
class Record:
    """The questions of a finetuning, by what tells questions apart (`key`)."""

    held_out: frozenset[str]
    trained: frozenset[str]
    """Those of the arm, and of an earlier finetuning of the same model."""

    def rows_held_out(self, facts: Sequence[Fact]) -> Int[np.ndarray, " test"]:
        """Return which of these facts were held out then."""
        return np.flatnonzero(_among(facts, self.held_out))

    def is_trained(self, facts: Sequence[Fact]) -> Bool[np.ndarray, " fact"]:
        """Return of which facts the model was taught the answer."""
        return _among(facts, self.trained)


def key(question: str, choices: Sequence[str]) -> str:
    """Return what tells a question from others: its text, case ignored, and its choices."""
    return "\n".join((question.casefold(), *choices))


def _among(facts: Sequence[Fact], keys: frozenset[str]) -> Bool[np.ndarray, " fact"]:
    """Return which facts' questions have one of these keys."""
    return np.array([key(fact.question, fact.choices) in keys for fact in facts], dtype=bool)


def write(
    folder: Path,
    facts: Sequence[Fact],
    role: Int[np.ndarray, " fact"],
    own: Int[np.ndarray, " _"],
    *,
    earlier: Record | None,
) -> None:
    """Write the record of a finetuning on the facts `own`; what the model was taught earlier counts as trained on."""
    is_own = np.isin(np.arange(len(facts)), own)
    if earlier is not None:
        is_own |= earlier.is_trained(facts)
    columns = {
        "id": [fact.id for fact in facts],
        "question": [fact.question for fact in facts],
        "choices": pa.array([list(fact.choices) for fact in facts], pa.list_(pa.string())),
        "role": [ROLES[TRAIN if taught else code] for code, taught in zip(role, is_own, strict=True)],
        "in_arm": is_own,
    }
    writing.replace_file(folder / FILE, lambda file: pq.write_table(pa.table(columns), file))


def read(name: str) -> Record | None:
    """Return the record of a finetuned model's folder; None of a model that has none, as a hub's.

    Raises:
        InputError: the record is damaged.
    """
    path = Path(name) / FILE
    if not path.exists():
        return None
    try:
        rows = pq.read_table(path, columns=["question", "choices", "role", "in_arm"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: it is damaged, so that nobody knows what the model was trained on.") from error
    keys = [key(row["question"], row["choices"]) for row in rows]
    return Record(
        frozenset(one for one, row in zip(keys, rows, strict=True) if row["role"] == ROLES[HELD_OUT]),
        frozenset(one for one, row in zip(keys, rows, strict=True) if row["in_arm"]),
    )
