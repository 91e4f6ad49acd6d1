"""The deliberate errors: each still breaks what it says, is undone, and is kept with what noticed it."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.mutations import apply, catalogue, command, verified
from core import closed_form, split
from core.seeds import Cell
from theory import evaluate, facts
from theory.law import flow, theorem
from theory.pipeline import Simulation
from theory.verify import checks, design

ROOT = Path(__file__).parents[2]
SWAPPED, TIES = "top and bottom swapped", "ties count as recalled"


def test_every_error_of_the_catalogue_still_finds_its_place():
    assert len(catalogue.BY_NAME) == len(catalogue.ALL) >= 40
    for mutation in catalogue.ALL:
        right, wrong = apply.wrong_function(mutation)
        assert right is not wrong and right.__name__ == wrong.__name__
        assert (ROOT / mutation.test_file).is_file(), mutation


def test_an_error_whose_text_is_gone_is_named():
    gone = apply.Mutation("gone", "core.closed_form:boundary", "no such text", "")
    with pytest.raises(ValueError, match="gone: core.closed_form:boundary holds 'no such text' 0 times"):
        apply.wrong_function(gone)


def test_a_function_is_wrong_wherever_it_was_imported_and_right_again_afterwards():
    right, lead = closed_form.boundary, np.array([1.0, -1.0])
    mutation = catalogue.BY_NAME["reversal where the lead rises"]
    steps = np.array([1.0, 4.0])
    assert flow.reversal_boundary(steps, lead) == 2.0
    with apply.broken(mutation):
        assert closed_form.boundary is not right
        assert np.isnan(flow.reversal_boundary(steps, lead))
    assert closed_form.boundary is right and flow.reversal_boundary(steps, lead) == 2.0


def test_a_function_that_others_hold_by_name_is_replaced_there_too():
    right = closed_form.recalled
    assert design.recalled is theorem.recalled is right
    places = apply.put(right, print)
    assert design.recalled is theorem.recalled is closed_form.recalled is print
    for module, name in places:
        setattr(module, name, right)
    assert design.recalled is theorem.recalled is closed_form.recalled is right


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [(TIES, evaluate, "answer_read"), ("answer as its own competitor", theorem, "_critical")],
)
def test_verify_notices_an_error_by_the_row_that_is_about_it(name, module, function, monkeypatch):
    store = facts.build(facts.FactsConfig(n_subjects=4, n_relations=2, n_answers=3), seed=0)
    roles = split.Split(np.zeros(8, np.int8), {})
    world = Simulation(Cell(0, 0, 0), store, roles, np.zeros(8), np.zeros(8), {}, {})
    monkeypatch.setattr(verified, "_sound", lambda: [world])
    monkeypatch.setattr(checks, "simulate", lambda *_: [world])
    monkeypatch.setattr(checks, "CHECKS", dict.fromkeys(verified.LAST, design.ties))
    monkeypatch.setattr(checks, "outcome", lambda *_: None)
    monkeypatch.setattr(verified.compare, "rows", lambda *_, **__: [])
    right = getattr(module, function)
    verified.check()
    (row,) = verified.noticed(catalogue.BY_NAME[name])
    assert row.startswith("design: answers judged otherwise")
    assert getattr(module, function) is right


@pytest.fixture
def answers(monkeypatch):
    """Stand in for verify and the tests; returns what each was asked."""
    asked, given = [], {"verify": ["R9"], "tests": ["tests/test_x.py::test_it"]}

    def answer(who, left):
        for each in left:
            asked.append((who, each.name))
            yield each.name, given[who]

    monkeypatch.setattr(command, "_answers", answer)
    return asked, given


def test_what_was_noticed_is_kept_and_not_asked_again_until_the_program_changes(answers, tmp_path, capsys, monkeypatch):
    asked, _ = answers
    out = tmp_path / "mutations.json"
    arguments = ["mutations", SWAPPED, TIES, "--out", str(out)]
    assert benchmarks.main(arguments) == 0
    told = capsys.readouterr().out
    assert SWAPPED in told and "R9" in told and "Noticed by neither: none." in told
    assert json.loads(out.read_text())["found"][TIES] == {"verify": ["R9"], "tests": ["tests/test_x.py::test_it"]}
    assert len(asked) == 4 and benchmarks.main(arguments) == 0 and len(asked) == 4
    monkeypatch.setattr(command.provenance, "code_hash", lambda *_: "changed")
    assert benchmarks.main([*arguments, "--asked", "tests"]) == 0 and asked[4:] == [("tests", SWAPPED), ("tests", TIES)]


def test_an_error_that_nothing_notices_ends_with_1_and_is_named(answers, tmp_path, capsys):
    _, given = answers
    given["verify"] = []
    assert benchmarks.main(["mutations", TIES, "--out", str(tmp_path / "a.json")]) == 0
    given["tests"] = []
    assert benchmarks.main(["mutations", TIES, "--out", str(tmp_path / "b.json")]) == 1
    assert f"Noticed by neither: {TIES}." in capsys.readouterr().out


def test_an_unknown_error_is_refused_with_the_catalogue(tmp_path, capsys):
    assert benchmarks.main(["mutations", "no such", "--out", str(tmp_path / "a.json")]) == 2
    assert "no such error: 'no such'" in capsys.readouterr().err and not (tmp_path / "a.json").exists()
