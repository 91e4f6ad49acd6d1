import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts import table
from core.facts.request import Request, TableColumns


def write(folder, content, name="own.csv"):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_a_question_and_an_answer_are_enough(tmp_path):
    (fact,) = table.read(Request(write(tmp_path, "question,answer\nWho?,Ämy\n"))).facts
    assert (fact.id, fact.question, fact.answers, fact.source) == ("line 2", "Who?", ("Ämy",), "table")
    assert (fact.subject, fact.relation, fact.popularity, fact.choices) == ("", "", None, ())


def test_all_formats_give_the_same_facts(tmp_path):
    rows = [
        {"question": "Who is Ada?", "answers": ["x", "y"], "subject": "Ada", "relation": "r", "popularity": 2.5},
        {"question": "Who is Bea?", "answers": ["1984"], "subject": "Bea", "relation": "r", "popularity": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    cells = "question{0}answers{0}subject{0}relation{0}popularity\n"
    cells += 'Who is Ada?{0}"[""x"", ""y""]"{0}Ada{0}r{0}2.5\nWho is Bea?{0}1984{0}Bea{0}r{0}\n'
    paths = [
        tmp_path / "own.parquet",
        write(tmp_path, cells.format(","), "own.csv"),
        write(tmp_path, cells.format("\t"), "own.tsv"),
        write(tmp_path, "\n".join(json.dumps(row) for row in rows), "own.jsonl"),
    ]
    found = [[vars(fact) | {"id": ""} for fact in table.read(Request(path)).facts] for path in paths]
    assert found[0] == found[1] == found[2] == found[3]
    assert [fact["answers"] for fact in found[0]] == [("x", "y"), ("1984",)]
    assert [fact["popularity"] for fact in found[0]] == [2.5, None]


def test_columns_can_be_named_and_a_named_one_serves_nothing_else(tmp_path):
    path = write(tmp_path, "q,subject,who,subj,views\nWho is Ada?,r,x,Ada,3\n")
    columns = TableColumns(question="q", answers="who", relation="subject", popularity="views")
    (fact,) = table.read(Request(path, columns=columns)).facts
    assert (fact.relation, fact.subject, fact.answers, fact.popularity) == ("r", "Ada", ("x",), 3.0)


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "q,answer",
            TableColumns(),
            r"no column for the question .*\nName one by --facts.columns.question; .* are q, answer",
        ),
        (
            "question,a",
            TableColumns(),
            r"no column for the answers .*\nName one by --facts.columns.answers; .* are question, a",
        ),
        (
            "question,answer",
            TableColumns(subject="s"),
            r"no column 's' \(--facts.columns.subject\); .* question, answer",
        ),
    ],
)
def test_a_missing_column_is_named_with_its_flag_and_those_there_are(tmp_path, header, columns, message):
    with pytest.raises(InputError, match=message):
        table.read(Request(write(tmp_path, f"{header}\nWho?,x\n"), columns=columns))


@pytest.mark.parametrize(
    ("cell", "answers"), [("[untitled]", ("[untitled]",)), ("[1, 2, 1]", ("1", "2")), ("0", ("0",))]
)
def test_a_text_in_brackets_and_numbers_are_answers(tmp_path, cell, answers):
    (fact,) = table.read(Request(write(tmp_path, f'question,answer\nWho?,"{cell}"\n'))).facts
    assert fact.answers == answers


def test_rows_without_question_or_answer_and_repeats_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, "question,answer\nWho?,x\n,x\nWhat?,\nHow?,[]\nWho?,x\nWho?,y\n")
    found = table.read(Request(path))
    assert [(fact.id, fact.answers) for fact in found.facts] == [("line 2", ("x",)), ("line 7", ("y",))]
    assert found.notes == (
        "3 of 6 rows have no question or no answer: left out",
        "1 of 3 facts repeat another's question and answers: left out",
    )


def test_a_subject_that_its_question_does_not_name_is_kept_and_counted(tmp_path):
    path = write(tmp_path, "question,answer,subject\nWho is ADA?,x,Ada\nWho is B?,x,Bea\nWhere is B?,x,Cid\nAnd?,x,\n")
    found = table.read(Request(path))
    assert len(found.facts) == 4
    assert found.notes == (
        "2 facts do not name their subject in the question, excluded from attention: the first is 'Bea' in 'Who is B?'",
    )


def test_where_chooses_rows(tmp_path):
    found = table.read(Request(write(tmp_path, "question,answer,part\nWho?,x,a\nWhat?,y,b\n"), where="part=^b"))
    assert [fact.question for fact in found.facts] == ["What?"]
    assert found.notes == ("1 of 2 rows do not match --facts.where: left out",)


@pytest.mark.parametrize("popularity", ["-1", "nan", "inf", "many"])
def test_a_wrong_popularity_is_named_with_file_row_and_column(tmp_path, popularity):
    path = write(tmp_path, f"question,answer,popularity\nWho?,x,0\nWhat?,y,{popularity}\n")
    with pytest.raises(InputError, match=rf"own.csv, line 3, column 'popularity': popularity '{popularity}'"):
        table.read(Request(path))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("\"['a', 'b']\"", "line 1, column 'answers': .* is not a JSON list"),
        ('"[\\"a\\""', "line 1, column 'answers': .* is not a JSON list"),
        ('["a", ["b"]]', "line 1, column 'answers': .* is neither text nor number"),
        ('{"a": 1}', "line 1, column 'answers': .* is neither text nor number"),
        ("NaN", "line 1, column 'answers': .* is neither text nor number"),
        ('"\\ud800"', "line 1, column 'answers': .* half a character"),
        ('""', r"no usable row \(1 of 1 rows have no question or no answer"),
    ],
)
def test_answers_that_cannot_be_understood_are_named(tmp_path, answers, message):
    path = write(tmp_path, f'{{"question": "Who?", "answers": {answers}}}', "own.jsonl")
    with pytest.raises(InputError, match=message) as caught:
        table.read(Request(path))
    assert str(path) in str(caught.value)


def test_a_multiple_choice_table_as_the_hub_has_mmlu_is_read_with_letters(tmp_path):
    rows = [
        {"question": "Which?", "subject": "anatomy", "choices": ["a", "b", "b", ""], "answer": 2},
        {"question": "What?", "subject": "anatomy", "choices": ["None", "0", "1", "2"], "answer": 0},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    first, second = table.read(Request(tmp_path / "own.parquet", columns=TableColumns(relation="subject"))).facts
    assert (first.choices, first.answers) == (("a", "b", "b", ""), ("C",))
    assert (second.answers, second.relation, second.subject) == (("A",), "anatomy", "")


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (["a", "b", "c"], "A", "line 1, column 'choices': 3 choices"),
        (["a", "b", "c", "d", "e"], "A", "line 1, column 'choices': 5 choices"),
        (["a", "b", "c", "d"], "E", "line 1, column 'answer': answer 'E' is none of the choices"),
        (["a", "b", "c", "d"], 4, "line 1, column 'answer': answer '4' is none of the choices"),
    ],
)
def test_wrong_choices_are_named_with_file_row_and_column(tmp_path, choices, answer, message):
    path = write(tmp_path, json.dumps({"question": "Which?", "choices": choices, "answer": answer}), "own.jsonl")
    with pytest.raises(InputError, match=message):
        table.read(Request(path))
