import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts import keyed, texts
from core.facts.request import Request, TableColumns


def read(folder, *lines, header="subject,relation,answer,popularity", columns=None, where=None, min_facts=1):
    path = folder / "facts.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    request = Request(path, where=where, columns=TableColumns(**columns or {}))
    return keyed.read("table", request, min_facts=min_facts)


def column(found, part):
    """Return one part of every fact; of the answers, which are one each, the text."""
    assert all(len(fact.answers) == 1 for fact in found.facts)
    return [fact.answers[0] if part == "answer" else getattr(fact, part) for fact in found.facts]


def test_unusable_rows_are_left_out_and_counted(tmp_path):
    lines = ["A,r,x,5", "B,r,y,", " ,r,y,1", "C,,y,1", "D,r,[],1", "E,s,x,2", "F,s,y,2", "G,r,z,3"]
    rows = read(tmp_path, *lines, where="relation=^(r|)$")
    assert column(rows, "subject") == ["A", "G"]
    assert rows.notes == (
        "2 of 8 rows do not match --facts.where: left out",
        "1 of 8 rows have no popularity above 0: left out",
        "3 of 8 rows have an empty subject, relation or answer: left out",
    )


def test_of_repeated_keys_the_most_popular_row_is_kept_and_the_others_are_counted(tmp_path):
    rows = read(tmp_path, "A,r,x,5", "A,r,y,7", "B,r,x,1", "A,r,z,7", "A,s,x,9", "B,s,y,2")
    assert column(rows, "subject") == ["A", "B", "A", "B"]
    assert column(rows, "answer") == ["y", "x", "x", "y"]
    assert column(rows, "popularity") == [7, 1, 9, 2]
    assert rows.notes == (
        "1 keys (subject, relation) are repeated: 2 less popular rows left out",
        "1 of the repeated keys have several answers",
    )


def test_small_relations_are_dropped_and_named(tmp_path):
    rows = read(tmp_path, "A,r,x,1", "B,r,y,1", "A,s,x,1", "A,t,x,1", min_facts=2)
    assert set(column(rows, "relation")) == {"r"}
    assert rows.notes == ("relations with fewer than 2 facts: left out: s (1), t (1)",)


def test_the_answer_is_the_first_filled_column_and_of_a_list_its_first_element(tmp_path):
    lines = ['A,r,"[""x"", ""y""]",o,1', "B,r,,o,1", "C,r,[untitled],o,1", "D,r,[],o,1"]
    rows = read(tmp_path, *lines, header="subj,prop,possible_answers,obj,s_pop")
    assert column(rows, "answer") == ["x", "o", "[untitled]", "o"]
    only = read(
        tmp_path, *lines, "E,r,x,p,1", header="subj,prop,possible_answers,obj,s_pop", columns={"answers": "obj"}
    )
    assert column(only, "answer") == ["o"] * 4 + ["p"]


def test_lists_numbers_and_nulls_of_json_and_parquet_are_read_like_text(tmp_path):
    facts = [
        {"subject": 1, "relation": "r", "answers": ["x", "y"], "popularity": 1.5},
        {"subject": 2, "relation": "r", "answers": ["z"], "popularity": None},
        {"subject": 3, "relation": "r", "answers": ["z"], "popularity": 2.0},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, facts)))
    pq.write_table(pa.Table.from_pylist(facts), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        rows = keyed.read("table", Request(tmp_path / name), min_facts=1)
        assert (column(rows, "subject"), column(rows, "answer")) == (["1", "3"], ["x", "z"]), name
        assert column(rows, "popularity") == [1.5, 2]


@pytest.mark.parametrize("value", ["many", "nan", "inf", "-inf", "1,5", "0,123", "12,34", "None"])
def test_a_popularity_that_is_no_number_of_at_least_0_is_named_with_line_column_and_remedy(tmp_path, value):
    with pytest.raises(InputError) as caught:
        read(tmp_path, "A,r,x,1", f'B,r,y,"{value}"')
    assert str(caught.value) == (
        f"{tmp_path}/facts.csv, line 3, column 'popularity': popularity '{value}' is not a number of at least 0.\n"
        "Correct it, or empty the cell."
    )


def test_a_wrong_popularity_in_a_row_that_does_not_match_is_no_error(tmp_path):
    assert len(read(tmp_path, "A,r,x,1", "B,r,y,2", "C,s,y,-2", where="relation=r").facts) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"header": "subject,relation,value,popularity"},
            "no column for the answers .*\n.*--facts.columns.answers; the",
        ),
        ({"columns": {"subject": "who"}}, r"no column 'who' \(--facts.columns.subject\); the columns are subject, rel"),
        (
            {"where": "source=A"},
            r"no column 'source' \(--facts.where source=A\); the columns are .*\n.*--facts.where None",
        ),
        ({"where": "relation"}, "'relation': write it as COLUMN=REGEX"),
        ({"where": "relation=("}, r"'\(' is no regular expression"),
        ({"where": "relation=z"}, "no usable row .2 of 2 rows do not match --facts.where"),
        ({"min_facts": 3}, "every relation has fewer than 3 facts.\nLower --facts.min-facts: r .2."),
    ],
)
def test_a_setting_that_fits_no_column_or_row_is_an_input_error(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, "A,r,x,1", "B,r,y,1", **arguments)


def test_mmlu_is_refused_before_it_is_read_as_it_names_no_subjects(tmp_path):
    with pytest.raises(InputError, match="mmlu names no subjects(.|\n)*another --facts.source(.|\n)*empirical"):
        keyed.read("mmlu", Request(tmp_path / "gone"), min_facts=1)


def test_of_another_source_facts_without_popularity_are_left_out_and_counted_and_the_first_answer_is_kept(tmp_path):
    path, rows = tmp_path / "popqa.csv", ["subj,prop,question,possible_answers,s_pop"]
    for subject, answers, popularity in [("A", "xz", 3), ("B", "y", 2), ("C", "y", ""), ("D", "y", 0), ("B", "v", 1)]:
        listed = ", ".join(f'""{answer}""' for answer in answers)
        rows.append(f'{subject},r,Who is {subject}?,"[{listed}]",{popularity}')
    path.write_text("\n".join(rows))
    found = keyed.read("popqa", Request(path), min_facts=1)
    assert column(found, "subject") == ["A", "B"] and column(found, "answer") == ["x", "y"]
    assert column(found, "question") == ["", ""]
    assert found.notes[2:] == (
        "2 of 5 facts have no popularity above 0: left out",
        "1 keys (subject, relation) are repeated: 1 less popular facts left out",
        "1 of the repeated keys have several answers",
    )
    with pytest.raises(InputError, match="relation 'r' has one answer(.|\n)*--facts.relations, or --facts.min-facts"):
        path.write_text("\n".join(rows[:2]))
        keyed.read("popqa", Request(path), min_facts=1)


def test_of_a_table_the_relations_named_are_kept_and_other_settings_are_refused(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text("subject,relation,answer,popularity\nA,r,x,1\nB,r,y,2\nA,s,x,1\nB,s,y,1\n")
    found = keyed.read("table", Request(path, relations=("s",)), min_facts=1)
    assert column(found, "relation") == ["s", "s"]
    with pytest.raises(InputError, match="there is no relation 't'; there are r, s"):
        keyed.read("table", Request(path, relations=("t",)), min_facts=1)
    with pytest.raises(InputError, match="--facts.buckets is of no use to a table"):
        keyed.read("table", Request(path, buckets=tmp_path), min_facts=1)


def test_a_relation_with_one_answer_is_an_input_error_with_two_remedies(tmp_path):
    lines = ["A,r,x,1", "B,r,y,1", "C,r,y,1", "A,s,x,1", "B,s,x,1"]
    with pytest.raises(InputError, match="relation 's' has one answer, 'x', in all its 2 facts.\n.*min-facts 3"):
        read(tmp_path, *lines)
    assert set(column(read(tmp_path, *lines, min_facts=3), "relation")) == {"r"}
    assert set(column(read(tmp_path, *lines, where="relation=^(?!s$)"), "relation")) == {"r"}


def test_a_list_that_is_not_json_is_an_input_error_and_not_one_answer(tmp_path):
    with pytest.raises(InputError, match=r"line 2, column 'answer': .* is not a JSON list"):
        read(tmp_path, "A,r,\"['x', 'y']\",1", "B,r,y,1")


def test_a_column_that_is_given_for_one_part_serves_no_other(tmp_path):
    header = "answer,relation,possible_answers,popularity"
    rows = read(tmp_path, "A,r,x,1", "B,r,y,1", header=header, columns={"subject": "answer"})
    assert column(rows, "subject") == ["A", "B"]
    assert column(rows, "answer") == ["x", "y"]


@pytest.mark.parametrize("answer", ["NaN", '{"a": 1}', '[["x"]]', "[NaN]"])
def test_an_answer_that_is_no_text_or_number_is_an_input_error(tmp_path, answer):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"subject": "A", "relation": "r", "popularity": 1, "answer": ' + answer + "}")
    with pytest.raises(InputError, match="line 1, column 'answer': .* is neither text nor number"):
        keyed.read("table", Request(path), min_facts=1)


def test_rows_of_popularity_0_are_left_out_and_counted_as_another_sources_facts_are(tmp_path):
    rows = read(tmp_path, "A,r,x,1", "B,r,y,0", "C,r,y,0.0", "D,r,y,", "E,r,y,2")
    assert column(rows, "subject") == ["A", "E"]
    assert rows.notes == ("3 of 5 rows have no popularity above 0: left out",)


def test_of_a_popularity_below_0_the_remedy_is_that_of_logarithms(tmp_path):
    with pytest.raises(InputError, match="'-2.3' is not .*\n.*If these are logarithms, give"):
        read(tmp_path, "A,r,x,1.5", "B,r,y,-2.3")


def test_repeats_are_told_from_contradictions_and_case_variants_stay_distinct(tmp_path):
    rows = read(tmp_path, "A,r,x,5", "A,r,x,4", "B,r,y,3", "B,r,z,2", "a,r,X,1", "C,R,x,1", "D,R,w,1")
    assert column(rows, "subject") == ["A", "B", "a", "C", "D"]
    assert rows.notes == (
        "2 keys (subject, relation) are repeated: 2 less popular rows left out",
        "1 of the repeated keys have several answers",
        "2 subjects differ from another by case alone: they stay distinct",
        "2 relations differ from another by case alone: they stay distinct",
        "2 answers differ from another by case alone: they stay distinct",
    )


def test_what_reading_the_cells_changed_is_counted(tmp_path):
    lines = ['A,r,1982.0,"1,500"', "Be\u0301a,r,1999.0,2"]
    rows = read(tmp_path, *lines, header="Subject,relation,answer,popularity")
    assert (column(rows, "subject"), column(rows, "answer")) == (["A", "B\u00e9a"], ["1982", "1999"])
    assert rows.notes == (
        "column 'Subject' is taken for the subject",
        f"1 cells {texts.THOUSANDS}",
        f"2 cells {texts.WHOLE}",
        f"1 cells {texts.UNICODE}",
    )


def test_of_a_list_the_first_filled_text_is_the_answer(tmp_path):
    rows = read(tmp_path, 'A,r,"[null, """", ""x""]",1', "B,r,y,1")
    assert column(rows, "answer") == ["x", "y"]
