"""MMLU (Hendrycks et al. 2021): four-choice questions of 57 subjects, as the original's CSV files.

The files are `SPLIT/SUBJECT_SPLIT.csv`, without a header: question, four choices, the right one's letter. Every cell is
text, "None" and "0" too, and may hold line breaks; a file ends its lines by LF or by CRLF.
"""

import difflib
from pathlib import Path

from core.errors import InputError
from core.facts import cells, files
from core.facts.record import LETTERS, Fact, FactSet
from core.facts.request import Request

CELLS = ("question", "choice A", "choice B", "choice C", "choice D", "answer")
HISTORY = "history"
SHOTS = "dev"
"""The part from whose files few-shot examples are taken, in their order (Hendrycks et al. 2021, evaluate.py)."""


def read(request: Request) -> FactSet:
    """Return the questions of a part, subject after subject by name, exact repeats once; with dev's as examples.

    Args:
        request: `path` is the folder that holds the folders dev, val and test; `relations` are names of subjects, of
            which `history` stands for those of whose words one is history, so not for prehistory.

    Raises:
        InputError: a file or subject is missing, or a row has not six filled cells with a letter at the end.
    """
    request.check_taken("MMLU")
    folder, split = request.path, request.part
    if split == "train":
        raise InputError("MMLU has no part train.\nName dev, val or test with --facts.part.")
    paths = {path.name.removesuffix(f"_{split}.csv"): path for path in sorted((folder / split).glob(f"*_{split}.csv"))}
    if not paths:
        raise InputError(f"{folder}: no files {split}/SUBJECT_{split}.csv.\nName MMLU's folder with --facts.path.")
    chosen, notes = _choose(list(paths), request.relations)
    facts = [fact for subject in chosen for fact in _read_file(paths[subject], subject, split)]
    kept, repeats = cells.deduplicate(facts)
    examples, absent = ([], []) if split == SHOTS else _examples(folder, chosen)
    return FactSet(kept, (*notes, *repeats, *absent), tuple(examples))


def _examples(folder: Path, subjects: list[str]) -> tuple[list[Fact], list[str]]:
    """Return dev's questions of these subjects, and a note if some have no file there."""
    paths = {subject: folder / SHOTS / f"{subject}_{SHOTS}.csv" for subject in subjects}
    examples = [fact for subject, path in paths.items() if path.exists() for fact in _read_file(path, subject, SHOTS)]
    if not (absent := [subject for subject, path in paths.items() if not path.exists()]):
        return examples, []
    source = "those of other subjects" if examples else "training facts"
    return examples, [f"no file {SHOTS}/{absent[0]}_{SHOTS}.csv ({len(absent)} such): examples are {source}"]


def _choose(names: list[str], wanted: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the wanted subjects in the order of `names`, and a note of those that `history` stands for."""
    if not wanted:
        return names, []
    histories = [name for name in names if HISTORY in name.split("_")]
    chosen: set[str] = set()
    for name in wanted:
        if name not in names and not (name == HISTORY and histories):
            near = difflib.get_close_matches(name.lower().replace(" ", "_"), names, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}."
            raise InputError(f"--facts.relations: MMLU has no subject {name!r}; {remedy}")
        chosen.update([name] if name in names else histories)
    notes = []
    if HISTORY in wanted:
        notes.append(f"history is taken as {', '.join(histories)}; prehistory only where it is named")
    return [name for name in names if name in chosen], notes


def _read_file(path: Path, subject: str, split: str) -> list[Fact]:
    """Return a file's facts, one a row."""
    rows, lines = files.read_rows(path, files.read_text(path), ",")
    if not rows:
        raise InputError(f"{path}: the file has no rows; fetch it anew")
    facts = []
    for index, (row, line) in enumerate(zip(rows, lines, strict=True)):
        _check(path, line, row)
        question, *choices, letter = (cell.replace("\r\n", "\n") for cell in row)
        name = f"{split}/{subject}/{index}"
        facts.append(Fact(name, "", subject, question, (letter,), choices=tuple(choices), source="mmlu"))
    return facts


def _check(path: Path, line: int, row: list[str]) -> None:
    """Raise InputError unless the row is a question, four choices and a letter."""
    if len(row) != len(CELLS):
        expected = "a question, four choices and a letter are 6"
        raise InputError(f"{path}, line {line}: {len(row)} cells, but {expected}; correct the row or fetch the file")
    for cell, column in zip(row, CELLS, strict=True):
        if not cell.strip():
            raise InputError(f"{path}, line {line}, column {column!r}: the cell is empty; fill it or fetch the file")
    if row[-1] not in LETTERS:
        raise InputError(f"{path}, line {line}, column 'answer': {row[-1]!r} is no letter of A, B, C and D; correct it")
