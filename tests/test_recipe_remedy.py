"""The recipe for a remedy of both flows, followed on a copy of the program: a setting, and what each does."""

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTING = '''    known_only: bool = setting(False, is_remedy=True)
    """Draw the arm's better-known half alone. A remedy."""
'''
TOY = '''class KnownOnly(Remedy):
    """Draws the better-known half of the arm."""

    reads = frozenset({"order"})

    def rows(self, block: Block, draw: Draw) -> Draw:
        return lambda key: block.rows[jax.random.randint(key, block.shape, 0, block.size // 2)]


'''
MODEL = '''class KnownOnly(Hook):
    """Draws the better-known half of the arm."""

    def __init__(self, config: Any, training: Training):
        self._known = training.questions.own[: len(training.questions.own) // 2]

    def batch(self, step: int, drawn: list[Encoded]) -> list[Encoded]:
        return [self._known[(step + place) % len(self._known)] for place in range(len(drawn))]


'''
CHANGES = {
    "core/remedies.py": [("\n\ndef check(", f"{SETTING}\n\ndef check(")],
    "theory/remedies.py": [
        ("REMEDIES: dict", f"{TOY}REMEDIES: dict"),
        ('    "replay": Replay(),\n', '    "replay": Replay(),\n    "known_only": KnownOnly(),\n'),
    ],
    "empirical/lm/remedies.py": [
        ("HOOKS: dict", f"{MODEL}HOOKS: dict"),
        ('    "replay": Replay,\n', '    "replay": Replay,\n    "known_only": KnownOnly,\n'),
    ],
}
"""Where which text takes the place of which."""
RUN_TOY = """
import sys
import tyro
from core.seeds import Cell
from theory import pipeline
from theory.config import Config
from theory.law import forecast

for flags in [], ["--finetune.known-only"]:
    config = tyro.cli(Config, args=[*sys.argv[1:], *flags])
    weights = pipeline.simulate(config, [Cell(0, 0, 0)])[0].weights["whole"]
    print((weights.subject_logit != 0).sum(), forecast.applies(config))
"""
SMALL = """--facts.n-subjects 40 --facts.n-relations 2 --facts.n-answers 5 --model.n-filler 5 --model.shared-share 0
--pretrain.steps 50 --finetune.steps 40 --finetune.batch-size 64 --n-records 1""".split()
RUN_MODEL = """
import numpy as np
import tyro
from empirical.finetune import FinetuneConfig
from empirical.lm import hook, remedies
from empirical.lm.remedies import Ranked, Training

for flags in [], ["--known-only"]:
    config = tyro.cli(FinetuneConfig, args=flags)
    hooks = remedies.hooks(config, Training(None, Ranked("abcdefgh", "", "", np.zeros(8)), config.train, 0, 0))
    print("".join(hook.drawn(hooks, 1, list("hgfedcba"))))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Return a copy of the program, the recipe followed."""
    pytest.importorskip("transformers")
    copy = tmp_path_factory.mktemp("program")
    for package in ("core", "theory", "empirical"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, replaced in CHANGES.items():
        text = (copy / name).read_text(encoding="utf-8")
        for old, new in replaced:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (copy / name).write_text(text, encoding="utf-8")
    return copy


def _run(program: Path, code: str, *flags: str) -> list[str]:
    command = [sys.executable, "-B", "-c", code, *flags]
    done = subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_remedy_is_a_setting_and_a_class_in_each_flow_in_three_files(program):
    files = (path.relative_to(program) for path in program.rglob("*.py"))
    changed = [file.as_posix() for file in files if not filecmp.cmp(ROOT / file, program / file, shallow=False)]
    assert sorted(changed) == sorted(CHANGES) and len(CHANGES) == 3
    assert sum(len(places) for places in CHANGES.values()) == 5, "a setting; in each flow a class and its line"


def test_the_new_remedy_acts_in_the_toy_which_then_makes_no_forecast(program):
    plain, forecasts, remedied, refuses = _run(program, RUN_TOY, *SMALL)
    assert 0 < int(remedied) < int(plain)
    assert (forecasts, refuses) == ("True", "False")


def test_the_new_remedy_acts_in_the_language_models_training(program):
    assert _run(program, RUN_MODEL) == ["hgfedcba", "bcdabcda"]
