"""The recipe for a new data set, followed on a copy of the program: one new module, one name in the registry."""

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REGISTRY = "core/facts/__init__.py"
MODULE = '''"""A file in the manner of SimpleQA: a JSON list of {"problem", "about", "answer", "topic", "views"}."""

import json

from core.facts import cells, files
from core.facts.record import Fact, FactSet
from core.facts.request import Request


def read(request: Request) -> FactSet:
    """Return the file's facts in its order."""
    request.check_taken("SimpleQA")
    rows = json.loads(files.read_text(request.path))
    facts = [
        Fact(f"record {i}", row["about"], row["topic"], row["problem"], (row["answer"],), row["views"])
        for i, row in enumerate(rows)
    ]
    kept, notes = cells.deduplicate(facts)
    return cells.of_relations(FactSet(kept, tuple(notes)), request.relations)
'''
LANGUAGE_MODEL = """
import sys
import tyro
from empirical import facts

for fact in facts.load(tyro.cli(facts.FactsConfig, args=sys.argv[1:])).facts:
    print(fact.relation, fact.question, *fact.answers, sep="|")
"""
TOY = """
import sys
import tyro
from theory import facts

store = facts.build(tyro.cli(facts.FactsConfig, args=sys.argv[1:]), seed=0)
for fact in range(len(store.subject)):
    names = store.subject_names[store.subject[fact]], store.relation_names[store.relation[fact]]
    print(*names, store.answer_names[store.answer[fact]], store.popularity[fact], sep="|")
"""
ROWS = [
    {"problem": "Who wrote A?", "about": "A", "answer": "Ada", "topic": "art", "views": 9},
    {"problem": "Who won B?", "about": "B", "answer": "Bea", "topic": "sport", "views": 8},
    {"problem": "Who wrote C?", "about": "C", "answer": "Çe", "topic": "art", "views": 7},
]


def copy_program(to):
    for package in ("core", "empirical", "theory"):
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))


def changes(program):
    """Return the files of the copy that differ from the program's, or are new."""
    files = (path.relative_to(program) for path in program.rglob("*") if path.is_file())
    changed = [f for f in files if not ((ROOT / f).is_file() and filecmp.cmp(ROOT / f, program / f, shallow=False))]
    return sorted(file.as_posix() for file in changed if "__pycache__" not in file.parts)


def call(program, flow, *flags):
    command = [sys.executable, "-B", "-c", flow, *map(str, flags)]
    return subprocess.run(command, cwd=program, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_a_new_data_set_is_one_module_and_one_changed_line_and_both_flows_read_it(tmp_path):
    program, questions = tmp_path / "program", tmp_path / "simple.json"
    copy_program(program)
    questions.write_text(json.dumps(ROWS), encoding="utf-8")
    flags = ["--source", "simpleqa", "--path", questions, "--relations", "art"]
    assert "invalid choice" in call(program, LANGUAGE_MODEL, *flags).stderr
    assert "invalid choice" in call(program, TOY, *flags).stderr

    registry = program / REGISTRY
    before = registry.read_text(encoding="utf-8")
    registry.write_text(before.replace('"mmlu", ', '"mmlu", "simpleqa", '), encoding="utf-8")
    (program / "core/facts/simpleqa.py").write_text(MODULE, encoding="utf-8")
    done = call(program, LANGUAGE_MODEL, *flags)
    assert done.stdout.splitlines() == ["art|Who wrote A?|Ada", "art|Who wrote C?|Çe"], done.stderr
    toy = call(program, TOY, *flags, "--min-facts", "2")
    assert toy.stdout.splitlines() == ["A|art|Ada|9.0", "C|art|Çe|7.0"], toy.stderr

    pairs = zip(before.splitlines(), registry.read_text(encoding="utf-8").splitlines(), strict=True)
    assert sum(old != new for old, new in pairs) == 1
    assert changes(program) == [REGISTRY, "core/facts/simpleqa.py"], "two files touched"

    refused = call(program, LANGUAGE_MODEL, *flags, "--where", "topic=art")
    assert "--facts.where is of no use to SimpleQA" in refused.stderr
