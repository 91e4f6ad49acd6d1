"""The recipe for a result, followed on a copy of the program: a function, its statement, and the check of its row."""

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FUNCTION = '''

def total_force(force: Float[np.ndarray, "fact token"]) -> Float[np.ndarray, " fact"]:
    r"""Return the sum of a fact's forces over its tokens, $\\\\sum_i G_i$ (R10).

    The softmax does not change where all its logits rise alike, hence $\\\\sum_i G_i = 0$.
    """
    return np.sum(force, axis=1)
'''.replace("\\\\", "\\")
CHECK = '''def zero_sum(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R10: the forces on a training fact's tokens sum to zero."""
    error = 0.0
    for world in simulations:
        force = judge.force(world.weights["base"], world.store, world.split.arms["whole"])
        error = max(error, float(np.abs(theorem.total_force(force)).max()))
    return [judge.bounded("R10", error, 1e-12, "largest sum of a fact's forces", "a larger sum")]


'''
CHANGES = {
    "theory/law/theorem.py": [
        ('}\n"""The theory', '    "R10": "The forces on a prompt\'s tokens sum to zero.",\n}\n"""The theory'),
    ],
    "theory/verify/checks.py": [
        ("CHECKS: dict", f"{CHECK}CHECKS: dict"),
        ('    "R8, reversal": reversal.boundary,\n', '    "R8, reversal": reversal.boundary,\n    "R10": zero_sum,\n'),
    ],
}
"""Where which text takes the place of which; the function comes last in its file."""
PROGRAM = """
import json, sys
from pathlib import Path
import tyro
from core import runs
from theory.config import Config
from theory.verify import checks

checks.CHECKS = {"R10": checks.CHECKS["R10"]}  # the others take longer
rows = checks.run(tyro.cli(Config, args=sys.argv[2:]), 1)
runs.write_predictions(Path(sys.argv[1]), rows)
kept = runs.read_table(Path(sys.argv[1])).to_pylist()
print(json.dumps([row for row in kept if row["result"] == "R10"]))
"""
SMALL = """--facts.n-subjects 100 --facts.n-relations 2 --facts.n-answers 8 --model.n-filler 5 --pretrain.steps 200
--finetune.steps 20 --finetune.batch-size 64 --n-records 2""".split()


def test_a_result_is_a_function_a_statement_and_a_check_in_two_files(tmp_path):
    pytest.importorskip("jax")
    program = tmp_path / "program"
    for package in ("core", "theory"):
        shutil.copytree(ROOT / package, program / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, replaced in CHANGES.items():
        text = (program / name).read_text(encoding="utf-8")
        for old, new in replaced:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (program / name).write_text(text + FUNCTION * name.endswith("theorem.py"), encoding="utf-8")
    files = (path.relative_to(program) for path in program.rglob("*.py"))
    changed = [file.as_posix() for file in files if not filecmp.cmp(ROOT / file, program / file, shallow=False)]
    assert sorted(changed) == ["theory/law/theorem.py", "theory/verify/checks.py"], "two files touched"

    command = [sys.executable, "-B", "-c", PROGRAM, str(tmp_path / "predictions.parquet"), *SMALL]
    done = subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["statement"] == "The forces on a prompt's tokens sum to zero."
    assert row["verdict"] == "holds" and 0 <= row["error"] <= row["tolerance"] == 1e-12
    assert row["note"] == "largest sum of a fact's forces" and row["experiment"] == "verify"
    assert row["refuted_by"] == "a larger sum"
