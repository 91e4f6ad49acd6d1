"""What holds of every source: one signature, and no setting that it silently ignores."""

from pathlib import Path

import pytest

from core import facts
from core.errors import InputError
from core.facts.request import Request, TableColumns

GIVEN = {"where": "a=b", "buckets": Path("rand_ent"), "columns": TableColumns(subject="s")}
TAKEN = {"popqa": {"where"}, "entity_questions": {"buckets"}, "mmlu": set(), "table": {"where", "columns"}}


@pytest.mark.parametrize("setting", GIVEN)
@pytest.mark.parametrize("source", facts.SOURCES)
def test_a_source_refuses_the_settings_that_it_does_not_take_and_no_others(source, setting, tmp_path):
    with pytest.raises(InputError) as caught:
        facts.read(source, Request(tmp_path / "gone.csv", part="test", **{setting: GIVEN[setting]}))
    refused = f"--facts.{setting} is of no use to" in str(caught.value)
    assert refused == (setting not in TAKEN[source])


@pytest.mark.parametrize(("source", "part"), [("entity_questions", "val"), ("mmlu", "train")])
def test_a_part_that_a_source_has_not_is_refused_with_those_that_it_has(source, part, tmp_path):
    with pytest.raises(InputError, match=rf"has no part {part}.\nName .* with --facts.part."):
        facts.read(source, Request(tmp_path, part=part))


@pytest.mark.parametrize("source", ["popqa", "table"])
def test_the_rows_of_the_relations_named_are_kept_and_an_unknown_one_is_named(source, tmp_path):
    path = tmp_path / "facts.csv"
    rows = ["subj,prop,question,possible_answers,s_pop"]
    rows += [f'Ada{i},{"ab"[i % 2]},Who is Ada{i}?,"[""x""]",1' for i in range(4)]
    path.write_text("\n".join(rows))
    chosen = facts.read(source, Request(path, relations=("b",)))
    assert [fact.subject for fact in chosen.facts] == ["Ada1", "Ada3"]
    with pytest.raises(InputError, match="there is no relation 'c'; there are a, b"):
        facts.read(source, Request(path, relations=("b", "c")))
