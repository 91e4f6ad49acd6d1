import json
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts import table, texts
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
        "1 questions stand there with several answers, each a fact of its own",
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


def answers(folder, *cells, **options):
    """Return the answers of JSON rows, and the notes, the cells one a row."""
    rows = (json.dumps({"question": f"Which {i}?", "answers": cell}) for i, cell in enumerate(cells))
    found = table.read(Request(write(folder, "\n".join(rows), "own.jsonl"), **options))
    return [fact.answers for fact in found.facts], found.notes


def test_integers_that_a_gap_made_floats_are_read_without_their_fraction_in_every_format(tmp_path):
    rows = [{"question": f"When {i}?", "answer": year} for i, year in enumerate((1982.0, None, 1999.0))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    paths = [
        tmp_path / "own.parquet",
        write(tmp_path, "\n".join(map(json.dumps, rows)), "own.jsonl"),
        write(tmp_path, json.dumps(rows), "own.json"),
        write(tmp_path, "question,answer\nWhen 0?,1982.0\nWhen 1?,\nWhen 2?,1999.0\n"),
    ]
    for path in paths:
        found = table.read(Request(path))
        assert [fact.answers for fact in found.facts] == [("1982",), ("1999",)], path.name
        assert found.notes == ("1 of 3 rows have no question or no answer: left out", f"2 cells {texts.WHOLE}")
    mixed = table.read(Request(write(tmp_path, "question,answer\nWhen?,1982.0\nHow much?,19.5\nWhich?,2.0.0\n")))
    assert [fact.answers for fact in mixed.facts] == [("1982.0",), ("19.5",), ("2.0.0",)]
    assert mixed.notes == ()


def test_a_choice_by_a_number_that_a_gap_made_a_float_is_a_letter(tmp_path):
    rows = [{"question": "Which?", "choices": list("abcd"), "answer": answer} for answer in (2.0, None)]
    (fact,) = table.read(Request(write(tmp_path, "\n".join(map(json.dumps, rows)), "own.jsonl"))).facts
    assert fact.answers == ("C",)


def test_truth_values_dates_and_decimals_are_read_as_one_writes_them_and_counted(tmp_path):
    assert answers(tmp_path, True, False, [True, "x"], "True") == (
        [("true",), ("false",), ("true", "x"), ("True",)],
        (f"3 cells {texts.TRUTH}",),
    )
    cells = {"born": [date(1982, 3, 4), None], "paid": [Decimal("7.50"), Decimal("7.00")]}
    pq.write_table(pa.table({"question": ["When?", "How much?"], **cells}), tmp_path / "own.parquet")
    born = table.read(Request(tmp_path / "own.parquet", columns=TableColumns(answers="born")))
    assert [fact.answers for fact in born.facts] == [("1982-03-04",)]
    assert born.notes[-1] == f"1 cells {texts.DATE}"
    paid = table.read(Request(tmp_path / "own.parquet", columns=TableColumns(answers="paid")))
    assert [fact.answers for fact in paid.facts] == [("7.50",), ("7",)]


def test_texts_are_composed_so_that_a_subject_is_found_in_its_question_whatever_the_form_of_each(tmp_path):
    rows = ["question,answer,subject", "Who is Rene\u0301?,A\u0308my,Ren\u00e9", "Who is Bea?,x,Be\u00ada\u200b"]
    found = table.read(Request(write(tmp_path, "\n".join([*rows, "Who is Cid?,y,Cid"]))))
    assert [(fact.subject, fact.answers) for fact in found.facts[:2]] == [("Ren\u00e9", ("\u00c4my",)), ("Bea", ("x",))]
    assert found.notes == (f"3 cells {texts.UNICODE}",), "and none that says that a subject is not named"
    wide = table.read(Request(write(tmp_path, "question,answer\nWho?,\uff34okyo\n")))
    assert (wide.facts[0].answers, wide.notes) == (("\uff34okyo",), (f"1 cells {texts.FULL_WIDTH}",))


def test_nulls_in_lists_are_left_out_and_counted(tmp_path):
    assert answers(tmp_path, ["x", None, "y"], [None], '["z", null]') == (
        [("x", "y"), ("z",)],
        ("1 of 3 rows have no question or no answer: left out", f"3 cells {texts.NULLS}"),
    )


def test_answers_as_squad_and_trivia_qa_have_them_are_read_and_other_objects_refused(tmp_path):
    squad = {"text": ["x", "y", "x"], "answer_start": [3, 4, 5]}
    trivia = {"value": "v", "aliases": ["a", "v", "b"], "normalized_value": "v", "type": "WikipediaEntity"}
    assert answers(tmp_path, squad, trivia, {"text": []}, json.dumps(squad), json.dumps(trivia), "{x}", "{}") == (
        [("x", "y"), ("v", "a", "b"), ("x", "y"), ("v", "a", "b"), ("{x}",), ("{}",)],
        (
            "1 of 7 rows have no question or no answer: left out",
            f"3 cells {texts.SQUAD}",
            f"2 cells {texts.TRIVIA_QA}",
        ),
    )
    for cell, message in {"{'text': ['x']}": "is not a JSON object", '{"label": "x"}': "is neither text nor"}.items():
        with pytest.raises(InputError, match=f"line 1, column 'answers': .*{message}"):
            answers(tmp_path, cell)


def test_questions_with_several_answers_and_case_variants_are_kept_and_counted(tmp_path):
    rows = ["Who?,x", "WHO?,X", "What?,a", "What?,b", "what?,c", "Where?,d"]
    found = table.read(Request(write(tmp_path, "\n".join(["question,answer", *rows]))))
    assert len(found.facts) == 6
    assert found.notes == (
        "1 questions stand there with several answers, each a fact of its own",
        "1 facts differ from another by case alone: facts of their own",
    )


def test_column_names_are_recognised_in_any_case_and_two_that_differ_by_it_alone_are_refused(tmp_path):
    found = table.read(Request(write(tmp_path, "QUESTION,Answer \nWho?,x\n")))
    assert found.facts[0].answers == ("x",)
    assert found.notes == ("column 'QUESTION' is taken for the question", "column 'Answer' is taken for the answers")
    both = write(tmp_path, "Question,question,answer\nno,Who?,x\n")
    assert table.read(Request(both)).facts[0].question == "Who?"
    path = write(tmp_path, "Question,QUESTION,answer\nno,Who?,x\n")
    with pytest.raises(InputError, match="'Question' and 'QUESTION' differ by case.\nName one by --facts.columns"):
        table.read(Request(path))
    named = table.read(Request(path, columns=TableColumns(question="QUESTION ")))
    assert named.facts[0].question == "Who?"


def test_topics_of_multiple_choice_questions_are_their_relation_and_entities_that_these_name_are_not(tmp_path):
    rows = [
        {"question": f"Which of {i}?", "subject": "abstract_algebra", "choices": list("abcd"), "answer": 0}
        for i in range(20)
    ]
    rows.append(rows[0] | {"question": "Is marketing dull?", "subject": "marketing"})
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "own.jsonl")
    found = table.read(Request(path))
    assert {(fact.subject, fact.relation) for fact in found.facts} == {("", "abstract_algebra"), ("", "marketing")}
    assert found.notes == (
        "column 'subject' is taken for the relation: 1 of 21 questions with choices name it "
        "(--facts.columns.subject subject has it otherwise)",
    )
    told = table.read(Request(path, columns=TableColumns(subject="subject")))
    assert (told.facts[0].subject, told.facts[0].relation) == ("abstract_algebra", "")
    named = [row | {"question": f"Is {row['subject']} {i}?"} if i % 5 == 0 else row for i, row in enumerate(rows)]
    entities = table.read(Request(write(tmp_path, "\n".join(map(json.dumps, named)), "own.jsonl")))
    assert entities.facts[0].subject == "abstract_algebra"
    free = write(tmp_path, "question,answer,subject\nWho?,x,Ada\n")
    assert table.read(Request(free)).facts[0].subject == "Ada"


@pytest.mark.parametrize("cell", ["1,234", "12,345,678", "1,234.5"])
def test_commas_between_thousands_of_a_popularity_are_read_and_counted(tmp_path, cell):
    found = table.read(Request(write(tmp_path, f'question,answer,popularity\nWho?,x,"{cell}"\n')))
    assert found.facts[0].popularity == float(cell.replace(",", ""))
    assert found.notes == (f"1 cells {texts.THOUSANDS}",)


@pytest.mark.parametrize("cell", ["1,5", "0,123", "12,34", "1234,567", ",123"])
def test_a_comma_that_may_be_decimal_is_refused(tmp_path, cell):
    with pytest.raises(InputError, match=f"popularity '{cell}' is not a number of at least 0"):
        table.read(Request(write(tmp_path, f'question,answer,popularity\nWho?,x,"{cell}"\n')))


def test_of_a_popularity_below_0_the_remedy_is_that_of_logarithms(tmp_path):
    with pytest.raises(InputError, match="'-2.3' is not .*\n.*If these are logarithms, give"):
        table.read(Request(write(tmp_path, "question,answer,popularity\nWho?,x,-2.3\n")))


def test_an_object_in_a_cell_that_has_a_key_twice_is_refused_with_its_row(tmp_path):
    cell = '"{""value"": ""a"", ""value"": ""b""}"'
    with pytest.raises(InputError, match="line 2, column 'answer': the key 'value' is there twice"):
        table.read(Request(write(tmp_path, f"question,answer\nWho?,{cell}\n")))
