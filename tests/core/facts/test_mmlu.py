import csv
from collections import Counter
from pathlib import Path

import pytest

from core.errors import InputError
from core.facts import mmlu
from core.facts.request import Request

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "mmlu"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="MMLU is not in ../shared/data/mmlu")
ROW = ("Which?", "None", "0", "a, b", ' the "c" ', "C")


def write(folder, *rows, subject="algebra", split="test", end="\n"):
    path = folder / split / f"{subject}_{split}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=end).writerows(rows)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_cell_is_text_and_keeps_its_line_breaks(tmp_path, end):
    path = write(tmp_path, (f"Two{end}lines?", *ROW[1:]), ROW, end=end)
    path.write_bytes(path.read_bytes().removesuffix(end.encode()))  # some files lack the final one
    first, second = mmlu.read(Request(tmp_path, part="test")).facts
    assert (first.question, first.choices, first.answers) == ("Two\nlines?", ROW[1:5], ("C",))
    assert (first.id, second.id) == ("test/algebra/0", "test/algebra/1")
    assert (first.subject, first.relation, first.popularity, first.source) == ("", "algebra", None, "mmlu")


def test_exact_repeats_are_left_out_also_across_subjects(tmp_path):
    write(tmp_path, ROW, ROW, (*ROW[:5], "D"))
    write(tmp_path, ROW, subject="virology")
    found = mmlu.read(Request(tmp_path, part="test"))
    assert [(fact.relation, fact.answers) for fact in found.facts] == [("algebra", ("C",)), ("algebra", ("D",))]
    assert found.notes == (
        "2 of 4 facts repeat another's question and answers: left out",
        "1 questions stand there with several answers, each a fact of its own",
        "no file dev/algebra_dev.csv (2 such): examples are training facts",
    )


def test_the_questions_of_dev_are_examples_in_their_order_and_none_of_their_own(tmp_path):
    write(tmp_path, ROW)
    write(tmp_path, ("Which of anatomy?", *ROW[1:]), subject="anatomy")
    write(tmp_path, ("Second?", *ROW[1:]), ("First?", *ROW[1:]), split="dev")
    write(tmp_path, ("Other?", *ROW[1:]), split="dev", subject="virology")
    found = mmlu.read(Request(tmp_path, part="test"))
    assert [(fact.id, fact.question) for fact in found.examples] == [
        ("dev/algebra/0", "Second?"),
        ("dev/algebra/1", "First?"),
    ]
    assert found.notes == ("no file dev/anatomy_dev.csv (1 such): examples are those of other subjects",)
    assert mmlu.read(Request(tmp_path, part="dev")).examples == ()


def test_history_stands_for_the_subjects_with_that_word_and_not_for_prehistory(tmp_path):
    for i, subject in enumerate(["algebra", "prehistory", "us_history", "history_of_art"]):
        write(tmp_path, (f"Which {i}?", *ROW[1:]), subject=subject)
    found = mmlu.read(Request(tmp_path, part="test", relations=("history",)))
    assert [fact.relation for fact in found.facts] == ["history_of_art", "us_history"]
    assert found.notes[0] == "history is taken as history_of_art, us_history; prehistory only where it is named"
    both = mmlu.read(Request(tmp_path, part="test", relations=("prehistory", "history")))
    assert [fact.relation for fact in both.facts] == ["history_of_art", "prehistory", "us_history"]


def test_an_unknown_subject_is_answered_with_the_nearest_name(tmp_path):
    write(tmp_path, ROW, subject="moral_disputes")
    with pytest.raises(InputError, match=r"no subject 'Moral dispute'; did you mean moral_disputes\?"):
        mmlu.read(Request(tmp_path, part="test", relations=("Moral dispute",)))
    with pytest.raises(InputError, match=r"no subject 'history'; there are moral_disputes\."):
        mmlu.read(Request(tmp_path, part="test", relations=("history",)))


def test_a_missing_split_or_an_empty_file_is_an_input_error(tmp_path):
    path = write(tmp_path, ROW)
    with pytest.raises(InputError, match=r"no files dev/SUBJECT_dev.csv"):
        mmlu.read(Request(tmp_path, part="dev"))
    path.write_text("\n")
    with pytest.raises(InputError, match=r"algebra_test.csv: the file has no rows"):
        mmlu.read(Request(tmp_path, part="test"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((*ROW[:5], "e", "C"), "line 3: 7 cells, but a question, four choices and a letter are 6"),
        (ROW[:5], "line 3: 5 cells"),
        ((*ROW[:5], "E"), "line 3, column 'answer': 'E' is no letter"),
        ((*ROW[:5], "c"), "line 3, column 'answer': 'c' is no letter"),
        ((*ROW[:2], " ", *ROW[3:]), "line 3, column 'choice B': the cell is empty"),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_column(tmp_path, row, message):
    path = write(tmp_path, ("Two\nlines?", *ROW[1:]), row)
    with pytest.raises(InputError, match=message) as caught:
        mmlu.read(Request(tmp_path, part="test"))
    assert str(path) in str(caught.value)


def test_an_open_quote_is_named_with_its_line(tmp_path):
    path = write(tmp_path, ROW)
    path.write_text(path.read_text() + '"Open,1,2,3,4,A\n')
    with pytest.raises(InputError, match=r"algebra_test.csv, line 2: malformed quoting"):
        mmlu.read(Request(tmp_path, part="test"))


@needs_real
@pytest.mark.parametrize(("split", "n_rows", "n_repeats"), [("dev", 285, 1), ("val", 1_531, 2), ("test", 14_042, 105)])
def test_the_real_splits_have_the_counts_that_their_description_says(split, n_rows, n_repeats):
    found = mmlu.read(Request(REAL, part=split))
    assert len(found.facts) == n_rows - n_repeats
    assert found.notes == (f"{n_repeats} of {n_rows:,} facts repeat another's question and answers: left out",)
    assert len({fact.relation for fact in found.facts}) == 57
    assert len(found.examples) == (0 if split == "dev" else 285)


@needs_real
def test_the_real_history_subjects_and_literal_cells():
    found = mmlu.read(Request(REAL, part="test", relations=("history", "prehistory")))
    assert Counter(fact.relation for fact in found.facts) == {
        "high_school_european_history": 165,
        "high_school_us_history": 204,
        "high_school_world_history": 237,
        "prehistory": 324,
    }
    choices = {choice for fact in mmlu.read(Request(REAL, part="test")).facts for choice in fact.choices}
    assert {"None", "0"} <= choices
