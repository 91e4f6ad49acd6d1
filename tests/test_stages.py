"""The directory listing is the pipeline: both flows have the same stages, by the same names, in the docs' order."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["facts", "pretrain", "knownness", "split", "finetune", "evaluate", "attention", "compare"]
SHARED = {"split"}
"""Stages that both flows take from core."""
FLOWS = [flow for flow in ("theory", "empirical") if (ROOT / flow).is_dir()]


def stage_file(flow: str, stage: str) -> Path:
    """Return the stage's module, or its package's."""
    module, package = ROOT / flow / f"{stage}.py", ROOT / flow / stage / "__init__.py"
    return package if package.exists() else module


def used(function: ast.AST, modules: list[str]) -> list[str]:
    """Return the modules whose functions are called in a function, by where each is called first."""
    first: dict[str, tuple[int, int]] = {}
    for node in [call.func for call in ast.walk(function) if isinstance(call, ast.Call)]:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            place = (node.lineno, node.col_offset)
            first[node.value.id] = min(place, first.get(node.value.id, place))
    return sorted(first, key=lambda name: first[name])


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_of_each_flow_is_a_module_of_its_name_that_says_what_it_does(flow, stage):
    if stage in SHARED:
        assert not stage_file(flow, stage).exists()
        flow = "core"
    text = ast.get_docstring(ast.parse(stage_file(flow, stage).read_text(encoding="utf-8")))
    assert text, f"{flow}/{stage} has no docstring"


def test_the_docs_list_the_stages_in_order_with_their_modules():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = text.split("| stage |")[1].split("\n\n")[0].splitlines()[2:]
    table = [(cells[1].strip().split(", "), cells[3]) for cells in (row.split("|") for row in rows)]
    assert [stage for stages, _ in table for stage in stages] == STAGES
    for stages, modules in table:
        named = re.findall(r"`(\w+)\.py`", modules)
        assert set(stages) <= set(named)
        assert all(any((ROOT / home / f"{name}.py").exists() for home in ("core", "theory")) for name in named)


def test_a_study_runs_the_stages_in_order():
    tree = ast.parse((ROOT / "empirical" / "study.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    parts = ("base", "questions", "tune")
    stages = [*(stage for stage in STAGES if stage != "evaluate"), "world"]  # what only measures stands anywhere
    early = {("questions", "finetune")}  # asked beforehand, whether it could be done
    found = [(part, name) for part in parts for name in used(functions[part], stages)]
    used_in_turn = [name for part, name in found if (part, name) not in early]
    expected = ["pretrain", "world", "knownness", "split", "finetune"]
    assert list(dict.fromkeys(used_in_turn)) == expected


def test_the_pipeline_runs_the_stages_in_order():
    tree = ast.parse((ROOT / "theory" / "pipeline.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    used_in_turn = [
        name for part in ("_worlds", "_pretrain", "_prepare", "finetuned") for name in used(functions[part], STAGES)
    ]
    assert list(dict.fromkeys(used_in_turn)) == STAGES[: STAGES.index("evaluate")]
