"""Randomly damaged files: each is refused by name, or holds what an independent count of its bytes says."""

import csv
import io
import json
import math
import random
import re
from pathlib import Path

import pytest

from core.errors import InputError
from core.facts import entity_questions, mmlu, popqa, table
from core.facts.request import Request

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
N_ROWS = 40
N_DAMAGED = 50
"""Damaged copies of each of the four files."""


def separated(rows, delimiter):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def popqa_bytes():
    if (path := DATA / "popqa" / "popqa.tsv").is_file():
        lines = path.read_bytes().splitlines(keepends=True)
        return b"".join([lines[0], *lines[3000 : 3000 + N_ROWS]])
    header = ["subj", "prop", "question", "possible_answers", "s_pop", "id"]
    rows = [
        [f"Ü {i}", "capital", f"What is the capital of Ü {i}?", json.dumps([f'The "{i}"', "x"]), 7 * i, i]
        for i in range(N_ROWS)
    ]
    return separated([header, *rows], "\t")


def entity_questions_bytes():
    if (path := DATA / "entity_questions" / "dev" / "P17.dev.json").is_file():
        records = json.loads(path.read_text(encoding="utf-8"))[:N_ROWS]
    else:
        records = [{"question": f"Which country is É{i} located in?", "answers": [f"K{i % 5}"]} for i in range(N_ROWS)]
    return json.dumps(records, indent=4, ensure_ascii=False).encode()


def mmlu_bytes():
    if (path := DATA / "mmlu" / "test" / "high_school_us_history_test.csv").is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[:N_ROWS]
    else:
        rows = [[f"Which,\nof «{i}»?", "None", "0", f'the "{i}"', "a, b", "ABCD"[i % 4]] for i in range(N_ROWS)]
    return separated(rows, ",").replace(b"\n", b"\r\n")


def table_bytes():
    rows = [
        [f"Who wrote Book {i}, or «B{i}»?", f"Book {i}", json.dumps([f"A {i}", "B"]) if i % 3 else f"A {i}", i * 1.5]
        for i in range(N_ROWS)
    ]
    return separated([["question", "subject", "answers", "popularity"], *rows], ",")


def strict_rows(content, delimiter):
    """Return the non-blank rows, None where the standard library refuses the text."""
    try:
        text = content.decode("utf-8-sig")
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        return None


def named_rows(content, delimiter):
    rows = strict_rows(content, delimiter)
    if not rows or len(set(rows[0])) < len(rows[0]) or any(len(row) != len(rows[0]) for row in rows):
        return None
    return [dict(zip(rows[0], map(str.strip, row), strict=True)) for row in rows[1:]]


def is_popularity(cell):
    try:
        return not cell or 0 <= float(cell) < math.inf
    except ValueError:
        return False


def count_popqa(content):
    rows = named_rows(content, "\t")
    if not rows or not {"subj", "prop", "question", "possible_answers", "s_pop"} <= set(rows[0]):
        return None
    found = set()
    for row in rows:
        try:
            answers = json.loads(row["possible_answers"] or "[]")
        except ValueError:
            return None
        if type(answers) is not list or {type(answer) for answer in answers} > {str} or not is_popularity(row["s_pop"]):
            return None
        if row["subj"] and row["prop"] and row["question"] and any(answer.strip() for answer in answers):
            found.add((row["question"], tuple(dict.fromkeys(a.strip() for a in answers if a.strip()))))
    return len(found) or None


def count_entity_questions(content):
    try:
        records = json.loads(content.decode("utf-8-sig"))
        matched = [re.fullmatch(r"Which country is (.*\S.*) located in\?", r["question"], re.S) for r in records]
        answers = [tuple(dict.fromkeys(answer.strip() for answer in record["answers"])) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(matched) or not all(all(each) and each for each in answers):
        return None
    return len({(record["question"], each) for record, each in zip(records, answers, strict=True)}) or None


def count_mmlu(content):
    rows = strict_rows(content, ",")
    if not rows or any(len(row) != 6 or not all(map(str.strip, row)) or row[5] not in list("ABCD") for row in rows):
        return None
    return len({tuple(cell.replace("\r\n", "\n") for cell in row) for row in rows})


def count_table(content):
    rows = named_rows(content, ",")
    if not rows or "question" not in rows[0] or not {"answers", "answer", "possible_answers"} & set(rows[0]):
        return None
    if not all(is_popularity(row.get("popularity", "")) for row in rows):
        return None
    found = set()
    for row in rows:
        cell = next(row[name] for name in ("answers", "answer", "possible_answers") if name in row)
        try:
            answers = json.loads(cell) if cell.startswith("[") else [cell]
        except ValueError:
            if re.match(r"\[\s*[\"']", cell):
                return None
            answers = [cell]
        answers = tuple(dict.fromkeys(str(answer).strip() for answer in answers if str(answer).strip()))
        if row["question"] and answers:
            found.add((row["question"], answers))
    return len(found) or None


def place(content, rng, characters):
    """Return where one of these bytes stands."""
    return rng.choice([i for i, byte in enumerate(content) if byte in characters])


def truncated(content, rng):
    return content[: rng.randrange(1, len(content))]


def without_a_delimiter(content, rng):
    i = place(content, rng, b',\t"{}[]:\n')
    return content[:i] + content[i + 1 :]


def with_a_delimiter_twice(content, rng):
    i = place(content, rng, b',\t"{}[]:\n')
    return content[:i] + content[i : i + 1] + content[i:]


def with_flipped_bits(content, rng):
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def with_foreign_bytes(content, rng):
    i = rng.randrange(len(content))
    return content[:i] + rng.choice([b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r", b"\x1a"]) + content[i:]


def without_a_line(content, rng):
    lines = content.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def with_swapped_cells(content, rng):
    lines = content.splitlines(keepends=True)
    i = rng.randrange(len(lines))
    delimiter = b"\t" if b"\t" in content else b","
    cells = lines[i].split(delimiter)
    j, k = rng.randrange(len(cells)), rng.randrange(len(cells))
    cells[j], cells[k] = cells[k], cells[j]
    lines[i] = delimiter.join(cells)
    return b"".join(lines)


def with_a_blank_cell(content, rng):
    i = place(content, rng, b',\t"')
    length = re.compile(rb'[^,\t"\n]*').match(content, i + 1)
    assert length is not None
    return content[: i + 1] + content[length.end() :]


def with_one_cell_more(content, rng):
    i = place(content, rng, b"\n")
    return content[:i] + rng.choice([b",E", b"\tE", b',"E"']) + content[i:]


def with_a_gap(content, rng):
    i = rng.randrange(len(content))
    return content[:i] + content[i + rng.randint(2, 200) :]


DAMAGES = (
    truncated,
    without_a_delimiter,
    with_a_delimiter_twice,
    with_flipped_bits,
    with_foreign_bytes,
    without_a_line,
    with_swapped_cells,
    with_a_blank_cell,
    with_one_cell_more,
    with_a_gap,
)
TEMPLATE = {"P17": "Which country is [X] located in?"}
SOURCES = {
    "popqa": (popqa_bytes, "popqa.tsv", count_popqa, lambda path: popqa.read(Request(path))),
    "entity_questions": (
        entity_questions_bytes,
        "P17.test.json",
        count_entity_questions,
        lambda path: entity_questions.read(Request(path, part="test")),
    ),
    "mmlu": (
        mmlu_bytes,
        "test/history_test.csv",
        count_mmlu,
        lambda path: mmlu.read(Request(path.parents[1], part="test")),
    ),
    "table": (table_bytes, "own.csv", count_table, lambda path: table.read(Request(path))),
}


def written(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    (folder / "relation_query_templates.json").write_text(json.dumps(TEMPLATE))
    return path


@pytest.mark.parametrize("source", SOURCES)
def test_the_undamaged_file_is_read_whole_and_counted_so(tmp_path, source):
    make, name, count, read = SOURCES[source]
    content = make()
    n_facts = count(content)
    assert n_facts is not None and n_facts > N_ROWS // 2
    assert len(read(written(tmp_path, name, content)).facts) == n_facts


@pytest.mark.parametrize("source", SOURCES)
def test_a_damaged_file_is_refused_by_name_or_counted_right(tmp_path, source):
    make, name, count, read = SOURCES[source]
    content = make()
    rng = random.Random(f"damage {source}")
    outcomes = {"refused": 0, "read": 0}
    for i in range(N_DAMAGED):
        damage = DAMAGES[i % len(DAMAGES)]
        damaged = damage(content, rng)
        path = written(tmp_path, name, damaged)
        try:
            found = read(path)
        except InputError as error:
            assert str(path) in str(error), (damage.__name__, i)
            assert str(error).count("\n") <= 1, (damage.__name__, i)
            # What the standard library would let pass is refused for these reasons alone.
            assert count(damaged) is None or re.search("NUL byte|column 'id'|key twice", str(error)), error
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert len(found.facts) == count(damaged), (damage.__name__, i, found.notes)
        assert len({fact.id for fact in found.facts}) == len(found.facts), (damage.__name__, i)
    print(source, outcomes)  # shown by pytest -rP
    assert min(outcomes.values()) >= 5, outcomes  # neither all refused nor all believed
