"""One small world for all tests of a process, so that its programs are compiled once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

SMALL = [
    *("--facts.n-subjects", "300", "--pretrain.steps", "600", "--pretrain.batch-size", "128"),
    *("--finetune.batch-size", "128", "--n-records", "4"),
]


@pytest.fixture(scope="session")
def small_flags():
    """Return the flags of `small`."""
    return SMALL


@pytest.fixture(scope="session")
def small():
    """Return the config of a world of 1,200 facts, half of them poorly stored: the effect is there."""
    from theory.config import Config
    from theory.facts import FactsConfig
    from theory.finetune import FinetuneConfig
    from theory.pretrain import PretrainConfig

    return Config(
        facts=FactsConfig(n_subjects=300),
        pretrain=PretrainConfig(steps=600, batch_size=128),
        finetune=FinetuneConfig(batch_size=128),
        n_records=4,
    )


@pytest.fixture(scope="session")
def simulations(small):
    """Return four simulations of the small world, each with random states of its own."""
    from core import seeds
    from theory import pipeline

    return pipeline.simulate(small, [seeds.Cell(k, k, k) for k in range(4)])


@pytest.fixture
def store():
    """Return a small sampled world."""
    from theory import facts

    return facts.build(facts.FactsConfig(n_subjects=12, n_relations=2, n_answers=4), seed=0)


@pytest.fixture
def random_weights(store):
    """Return a function that draws weights of that world: of one attention logit for each subject, or each fact."""
    from theory.model.config import Weights

    def draw(seed: int, *, by_relation: bool = False) -> Weights:
        rng = np.random.default_rng(seed)
        sizes = (store.n_subjects, store.n_relations) if by_relation else (store.n_subjects,)
        return Weights(
            rng.normal(size=(store.n_subjects, store.n_answers + 3)),
            rng.normal(size=(store.n_relations, store.n_answers + 3)),
            rng.normal(size=store.n_answers + 3),
            rng.normal(size=sizes),
            rng.normal(size=store.n_relations),
            rng.normal(size=()),
        )

    return draw


HEARS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def interruptible():
    """Return a function that starts a command which hears Ctrl-C, as a background job of a shell would not."""

    def start(command: list[str]) -> subprocess.Popen:
        # Not with preexec_fn: it forks, which JAX's threads do not survive.
        return subprocess.Popen(
            [sys.executable, "-c", HEARS_CTRL_C, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


class Told:
    """What a command returned and printed."""

    def __init__(self, code: int, captured):
        self.code, self.out, self.err = code, captured.out, captured.err

    @property
    def error(self) -> str:
        """The message, without the progress bar before it."""
        assert "Traceback" not in self.err + self.out
        message = self.err[self.err.index("error: ") :].strip()
        assert len(message.splitlines()) <= 2, message
        return message


@pytest.fixture
def tell(capsys):
    """Return a function that gives the command line these arguments, in this process."""
    from theory import __main__ as command_line

    def run(*arguments) -> Told:
        capsys.readouterr()
        code = command_line.main([str(argument) for argument in arguments])
        return Told(code, capsys.readouterr())

    return run
