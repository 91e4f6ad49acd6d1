import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts import files, popqa, texts
from core.facts.request import Request

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "popqa" / "popqa.tsv"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="PopQA is not at ../shared/data/popqa/popqa.tsv")
HEADER = ("id", "subj", "prop", "s_pop", "pop_source", "question", "possible_answers")


def row(subject="Ada", question=None, answers=("x",), **cells):
    question = question or f"Who is {subject}'s father?"
    given = {"id": "", "subj": subject, "prop": "father", "s_pop": "7", "pop_source": "A", "question": question}
    return given | {"possible_answers": json.dumps(answers, ensure_ascii=False)} | cells


def write(folder, *rows, header=HEADER):
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"' if '"' in cell else cell

    lines = [header, *([quoted(each[name]) for name in header] for each in rows)]
    path = folder / "popqa.tsv"
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_row_becomes_a_fact_with_all_its_aliases(tmp_path):
    path = write(tmp_path, row("Émile", answers=["Zeus", "the god"], id="12"))
    (fact,) = popqa.read(Request(path)).facts
    assert (fact.id, fact.subject, fact.relation, fact.question) == ("12", "Émile", "father", "Who is Émile's father?")
    assert (fact.answers, fact.popularity, fact.choices, fact.source) == (("Zeus", "the god"), 7.0, (), "popqa")


def test_the_hubs_form_as_parquet_reads_the_same_whether_answers_are_a_list_or_its_json(tmp_path):
    rows = [row("Ada", answers=["x", "y"]), row("Bea", answers=["z"])]
    expected = popqa.read(Request(write(tmp_path, *rows)))
    for decode in (str, json.loads):
        cells = [each | {"possible_answers": decode(each["possible_answers"]), "s_pop": 7} for each in rows]
        pq.write_table(pa.Table.from_pylist(cells), tmp_path / "hub.parquet")
        assert popqa.read(Request(tmp_path / "hub.parquet")) == expected


def test_a_hub_name_goes_to_the_hub(monkeypatch):
    asked = []

    def load(path):
        asked.append(path)
        return files.Table(Path(path), {name: [row()[name]] for name in HEADER}, "row", [1])

    monkeypatch.setattr(files, "_read_hub", load)
    assert len(popqa.read(Request(Path("hub:akariasai/PopQA@main"))).facts) == 1
    assert asked == [Path("hub:akariasai/PopQA@main")]


def test_an_empty_popularity_is_unknown_and_counted(tmp_path):
    found = popqa.read(Request(write(tmp_path, row("Ada", s_pop=""), row("Bea", s_pop="0"))))
    assert [fact.popularity for fact in found.facts] == [None, 0.0]
    assert found.notes == ("1 of 2 facts have no popularity",)


def test_rows_without_subject_or_answers_are_left_out_and_counted(tmp_path):
    rows = [row("", "Who is 's father?"), row("Bea", answers=[]), row("Cid", answers=[" "]), row("Dan")]
    found = popqa.read(Request(write(tmp_path, *rows, row("Eve", possible_answers=""))))
    assert [fact.subject for fact in found.facts] == ["Dan"]
    assert found.notes == ("4 of 5 rows have an empty subject, relation, question or list of answers: left out",)


def test_repeated_aliases_are_removed_in_order(tmp_path):
    (fact,) = popqa.read(Request(write(tmp_path, row(answers=["b", "a", "b", " a", "c"])))).facts
    assert fact.answers == ("b", "a", "c")


def test_of_rows_with_the_same_question_and_answers_the_most_popular_is_kept_in_its_place(tmp_path):
    rows = [row("Ada", s_pop=""), row("Bea"), row("Ada", s_pop="9"), row("Ada", s_pop="9"), row("Ada", s_pop="8")]
    found = popqa.read(Request(write(tmp_path, *rows)))
    assert [(fact.id, fact.popularity) for fact in found.facts] == [("row 1", 7.0), ("row 2", 9.0)]
    assert found.notes == ("3 of 5 facts repeat another's question and answers: left out",)


def test_the_object_is_trained_on_and_possible_answers_are_accepted(tmp_path):
    rows = [
        row("Ada", answers=["x", "y", "z"], obj="y", s_pop="7"),
        row("Ada", answers=["x", "y", "z"], obj="z", s_pop="9"),  # the same question, for its other object
        row("Bea", answers=["x", "y"], obj=""),
        row("Cid", answers=["x"], obj=" w "),
    ]
    found = popqa.read(Request(write(tmp_path, *rows, header=(*HEADER, "obj"))))
    assert [fact.answers for fact in found.facts] == [("z", "x", "y"), ("x", "y"), ("w", "x")]
    assert found.notes == (
        "1 of 4 facts repeat another's question and answers: left out",
        "1 of 3 facts name no obj: the first of their possible answers is trained on",
    )


def test_a_question_with_other_answers_stays(tmp_path):
    found = popqa.read(Request(write(tmp_path, row(answers=["x"]), row(answers=["y"]))))
    assert [fact.answers for fact in found.facts] == [("x",), ("y",)]


def test_where_chooses_rows_and_keeps_their_numbers(tmp_path):
    found = popqa.read(
        Request(write(tmp_path, row("Ada", pop_source="C"), row("Bea", pop_source="BC")), where="pop_source=[AB]")
    )
    assert [(fact.id, fact.subject) for fact in found.facts] == [("row 1", "Bea")]
    assert found.notes == ("1 of 2 rows do not match --facts.where: left out",)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"s_pop": "-2"}, "line 3, column 's_pop': popularity '-2' is not a number of at least 0"),
        ({"s_pop": "nan"}, "line 3, column 's_pop': popularity 'nan'"),
        ({"s_pop": "many"}, "line 3, column 's_pop': popularity 'many'"),
        ({"possible_answers": '["x", "y"'}, "line 3, column 'possible_answers': .* is not a JSON list"),
        ({"possible_answers": "politician"}, "line 3, column 'possible_answers': 'politician' is not a JSON list"),
        ({"possible_answers": '{"x": 1}'}, "line 3, column 'possible_answers': .* is not a list of texts"),
        ({"possible_answers": "[1984]"}, "line 3, column 'possible_answers': .* is not a list of texts"),
        ({"possible_answers": '["\\ud800"]'}, "line 3, column 'possible_answers': .* half a character"),
        ({"id": "5"}, "column 'id': '5' stands for .*Ada.* and for .*Bea"),
    ],
)
def test_a_damaged_cell_is_named_with_file_row_and_column(tmp_path, cells, message):
    path = write(tmp_path, row("Ada", id="5"), row("Bea") | cells)
    with pytest.raises(InputError, match=message) as caught:
        popqa.read(Request(path))
    assert str(path) in str(caught.value)


def test_a_missing_column_or_no_usable_row_is_an_input_error(tmp_path):
    header = [name for name in HEADER if name != "subj"]
    with pytest.raises(InputError, match=r"popqa.tsv: no column 'subj' .*the columns are id, prop, s_pop"):
        popqa.read(Request(write(tmp_path, row(), header=header)))
    with pytest.raises(InputError, match=r"no usable row \(1 of 1 rows do not match --facts.where: left out\)"):
        popqa.read(Request(write(tmp_path, row()), where="pop_source=Z"))


@needs_real
def test_the_reassembled_file_has_the_counts_that_its_description_says():
    found = popqa.read(Request(REAL))
    assert found.notes == (
        "3 of 14,267 rows have an empty subject, relation, question or list of answers: left out",
        "504 of 14,264 facts repeat another's question and answers: left out",
        "561 questions stand there with several answers, each a fact of its own",
        "10,818 of 13,760 facts name no obj: the first of their possible answers is trained on",
        "9,248 of 13,760 facts have no popularity",
        f"13 cells {texts.UNICODE}",
    )
    assert len({fact.question for fact in found.facts}) == 13_065  # 13,068 with those of the empty subjects
    relations = Counter(fact.relation for fact in found.facts)
    assert (len(relations), relations["place of birth"], relations["mother"], relations["color"]) == (16, 584, 187, 34)
    assert max(len(fact.answers) for fact in found.facts) <= 190
    assert sum(not fact.question.isascii() for fact in found.facts) > 400
    assert max(fact.popularity or 0 for fact in found.facts) == 15_101_521


@needs_real
def test_the_unbiased_sample_is_chosen_by_where():
    found = popqa.read(Request(REAL, where="pop_source=[AB]"))
    assert found.notes[0] == "11,534 of 14,267 rows do not match --facts.where: left out"
    popularity = sorted(fact.popularity or 0 for fact in found.facts)
    assert (len(popularity), popularity[0], popularity[-1]) == (2_729, 5, 1_291_432)
