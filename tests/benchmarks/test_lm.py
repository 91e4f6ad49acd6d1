"""The benchmark of the language-model flow on a small model: every part is timed, and rows are kept."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("transformers")


from benchmarks import lm, lm_programs
from benchmarks.lm import Settings
from benchmarks.lm_programs import COMPILED, PARTS, Sizes
from core.errors import InputError
from empirical import evaluate
from empirical.evaluate import EvaluateConfig
from empirical.facts import FactsConfig
from empirical.lm import compiled, prefix

FEW: dict = {"questions": 3, "steps": 3, "batch": 2, "repeats": 1}


@pytest.mark.parametrize(
    ("part", "program"),
    [(part, program) for part, programs in PARTS.items() for program in programs if not program.startswith("TRL")],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_every_part_is_timed_and_counted(model, part, program, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    monkeypatch.setattr(prefix, "MIN_LENGTH", prefix.MIN_LENGTH)  # put back afterwards
    row = lm.measure(Settings((model,), **FEW), model, part, program)
    assert row["n_facts"] == (6 if part == "finetuning" else 3) and row["seconds"] > 0
    assert row["n_tokens"] > 5 * row["n_facts"] and row["flops"] > 0 and row["utilisation"] > 0
    assert row["peak_bytes"] > 1e7 and row["dtype"] == "float32"
    assert (row["first_seconds"] or 0) > 0 if part == "finetuning" else row["first_seconds"] is None


def test_layers_are_compiled_where_that_is_asked_for_and_a_failure_is_a_row(model, monkeypatch):
    settings = Settings((model,), ("finetuning",), compiled=False, **FEW)
    programs = [[task[2] for task in lm._tasks(replace(settings, compiled=one))] for one in (False, True)]
    assert COMPILED not in programs[0] and programs[1][:2] == ["empirical", COMPILED]
    monkeypatch.setattr(compiled, "LIMIT", 0)
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    assert "cannot be compiled" in lm.measure(settings, model, "finetuning", COMPILED)["failed"]


def test_the_shared_prefix_is_read_once_and_without_it_with_each_question(model, monkeypatch):
    monkeypatch.setattr(prefix, "MIN_LENGTH", prefix.MIN_LENGTH)
    settings = Settings((model,), questions=16, repeats=1)
    rows = [lm.measure(settings, model, "scoring", program) for program in PARTS["scoring"]]
    assert rows[1]["n_tokens"] > rows[0]["n_tokens"]


def test_the_other_way_to_answer_gives_the_same_answers(model):
    loaded = lm_programs.load(model)
    facts = lm_programs.questions(Sizes(5, 2, 2, 4, 1), 5)
    encoded = loaded.format.ask(facts)
    found = loaded.tokenizer.batch_decode(lm_programs.in_file_order(loaded, encoded), skip_special_tokens=True)
    ours = evaluate.predict(EvaluateConfig(max_new_tokens=lm_programs.NEW_TOKENS), loaded, facts, encoded)
    assert [text.partition("\n")[0].strip() for text in found] == ours
    assert len({fact.question for fact in facts}) == 5
    assert all(len(fact.question.split()) >= 4 + 4 for fact in facts)


def test_rows_are_kept_and_not_made_again(model, tmp_path, monkeypatch, capsys):
    made = []

    class Here:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, work, settings, *task):
            made.append(task)
            if len(made) == 2:
                raise KeyboardInterrupt
            row = dict(zip(("model", "part", "program"), task, strict=True))
            counted = {
                "n_facts": 4,
                "n_tokens": 100,
                "flops": 10**9,
                "seconds": 2.0,
                "processor_seconds": 2.0,
                "utilisation": 0.5,
            }
            row |= counted | {"peak_bytes": 10**9}
            return type("Result", (), {"result": lambda self: row})()

    monkeypatch.setattr(lm, "ProcessPoolExecutor", Here)
    out = tmp_path / "rows.json"
    settings = Settings((model,), ("scoring",), out=out, **FEW)
    with pytest.raises(KeyboardInterrupt):
        lm.run(settings)
    assert len(json.loads(out.read_text())["rows"]) == 1
    lm.run(settings)
    assert [task[2] for task in made] == [*PARTS["scoring"], PARTS["scoring"][1]]
    printed = capsys.readouterr().out
    assert "The language-model flow on" in printed and "without the shared prefix" in printed and "2.0" in printed
    with pytest.raises(InputError, match="rows of other settings"):
        lm.run(Settings((model,), ("scoring",), out=out))


def test_questions_come_from_a_file_in_its_order(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,answer,relation\n" + "".join(f"Who is {n}?,A{n},r\n" for n in range(300)))
    source = FactsConfig(source="table", path=path)
    drawn = [fact.question for fact in lm_programs.questions(Sizes(20, 2, 2, 0, 1, source), 276)]
    number = [int(text.split()[2][:-1]) for text in drawn]
    assert number[:20] == sorted(number[:20]) and number[20:] != sorted(number[20:])
    assert len(set(drawn)) == 276 and set(number) < set(range(300))
    with pytest.raises(InputError, match="it has 300 questions, and 301"):
        lm.run(Settings(("tiny",), questions=45, facts=source))


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"steps": 2}, "--steps is 2"), ({"parts": ("speed",)}, "--parts speed"), ({"models": ("./no",)}, "no such")],
)
def test_settings_that_mean_nothing_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        lm.run(Settings(**changes))
