"""Odd tables, as hand and library write them: what tests of readers and of commands are given."""

import csv
import gzip
import io
import json
import re
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = {
    "question": ("question", "Question ", "QUESTION", "\ufeffquestion", "query"),
    "answer": ("answer", "answers", "possible_answers", "Answer", "reply"),
    "subject": ("subject", "subj", " SUBJECT"),
    "relation": ("relation", "prop", "Relation"),
    "popularity": ("popularity", "s_pop", "Popularity"),
}
TEXTS = (
    *("", " ", "None", "0", "C++", "c++", "Zoe\u0308", "x\u200b", "\u00ad"),
    "\uff34okyo",
    "[untitled]",
    "{x}",
    "a,b",
)
ANSWERS = (
    TEXTS,
    ("1982.0", "1999.0", ""),
    (1982.0, 1999.0, None),
    (19.5, 2.0, None),
    (True, False, None),
    (date(1982, 3, 4), datetime(1982, 3, 4, 5), None),
    (["x", None], ["y", "z"], [], None),
    ({"text": ["x"]}, {"text": []}),
    ({"value": "v", "aliases": ["w"]}, {"value": "x", "aliases": []}, None),
    ('["x", null]', "[]", '{"text": ["x"], "answer_start": [1]}', '{"value": "x", "aliases": ["y"]}'),
)
"""Of one table or, mixed, of one that no library wrote."""
WRONG = (float("nan"), {"a": 1}, [["x"]], 10**5000, "\ud800", "{'text': ['x']}")
POPULARITIES = ("1", "0", "", "12.0", "1,234", 3, 2.5, None)
WRONG_POPULARITIES = ("1,5", "-1.2", "nan", "many", True, [1])
SEPARATORS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}


def cell(rng, part, row, answers, is_wrong):
    """Return a cell of that part of a fact; what no reader takes, if it is to be wrong."""
    if part == "popularity":
        return rng.choice(WRONG_POPULARITIES if is_wrong else POPULARITIES)
    if is_wrong:
        return rng.choice(WRONG)
    if part == "answer":
        return rng.choice(answers)
    if rng.random() < 0.3:
        return rng.choice(["", None, "r0\u200b"] if part == "relation" else [*TEXTS, None])
    return {"question": f"Who is S{row % 7}?", "subject": f"S{row % 7}", "relation": f"r{row % 2}"}[part]


def odd_rows(rng):
    """Return rows by column name; a column may be missing, one cell in a thousand is wrong."""
    names = [rng.choice([each[0], rng.choice(each)]) for part, each in NAMES.items()]
    kept = [(part, name) for part, name in zip(NAMES, names, strict=True) if rng.random() > 0.02]
    rng.shuffle(kept)
    answers = [answer for pool in ANSWERS for answer in pool] if rng.random() < 0.3 else rng.choice(ANSWERS)
    return [
        {name: cell(rng, part, row, answers, rng.random() < 0.001) for part, name in kept}
        for row in range(rng.randrange(60))
    ]


def arrow(column):
    """Return a Parquet column, of text where the cells have no type in common."""
    try:
        return pa.array(column)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
        return pa.array([value if value is None else ascii(value).strip("'") for value in column])


def plain(value):
    return value.isoformat() if isinstance(value, date) else value


def odd_file(rng, folder):
    """Return the path of an odd table in a random format, encoding and packing, some of them damaged."""
    rows = odd_rows(rng)
    suffix = rng.choice([".csv", ".csv", ".tsv", ".jsonl", ".json", ".parquet"])
    if suffix in SEPARATORS:
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=rng.choice(SEPARATORS[suffix]), lineterminator=rng.choice(["\n", "\r\n"]))
        written = [[json.dumps(v) if isinstance(v, list | dict) else plain(v) for v in row.values()] for row in rows]
        try:
            writer.writerows([list(rows[0]) if rows else [], *written])
        except ValueError:
            return None
        text = out.getvalue()
    elif suffix == ".parquet":
        try:
            columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {"question": []}
            pq.write_table(pa.table({name: arrow(column) for name, column in columns.items()}), folder / "own.parquet")
        except ValueError:  # a number of 5,000 digits has no decimal text
            return None
        return folder / "own.parquet"
    else:
        try:
            listed = [json.dumps({name: plain(value) for name, value in row.items()}) for row in rows]
        except ValueError:
            return None
        text = "\n".join(listed) if suffix == ".jsonl" else f"[{','.join(listed)}]"
    content = text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]), "surrogatepass")
    if rng.random() < 0.1 and content:
        place = rng.randrange(len(content))
        content = content[:place] + rng.choice([b"", b"\0", b"\xff", b'"', b"\r"]) + content[place + rng.randrange(3) :]
    packed = rng.random() < 0.2
    path = folder / f"own{suffix}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def counted(notes):
    """Return the rows that the notes speak of, and those that they count as left out."""
    number = r"([0-9,]+)"
    read, left_out = set(), 0
    for note in notes:
        if row := re.match(rf"{number} of {number} rows .*: left out", note):
            read.add(int(row[2].replace(",", "")))
            left_out += int(row[1].replace(",", ""))
        elif repeat := re.search(rf"^{number} of {number} facts repeat|: (?P<toy>[0-9,]+) less popular rows", note):
            left_out += int((repeat["toy"] or repeat[1]).replace(",", ""))
    return read, left_out
