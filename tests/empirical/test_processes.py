"""Two processes, as torchrun starts them, do what one does: each command, its numbers, what an interruption leaves."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from empirical import processes

ROOT = Path(__file__).parents[2]
N = 30
SCRIPT = """
import json, sys
from pathlib import Path
from torch import distributed
from empirical import __main__ as command, processes
from empirical.lm import train

fit, told = train.fit, []
wait = distributed.barrier if processes.asked_for() > 1 else lambda: None
part, processes.end = processes.end, wait  # parted from once; each command reads what the first process wrote


def watched(model, *given, cut=None, **options):
    steps = []

    def progress(doing, share):
        steps.append(share)
        if len(steps) == cut:
            raise KeyboardInterrupt

    options["progress"] = progress
    trace = fit(model, *given, **options)
    total = sum(value.double().abs().sum().item() for value in model.state_dict().values())
    told.append({"trace": trace, "weights": processes.gathered({processes.number(): total}), "first": steps[0]})
    return trace


codes = []
for line in json.loads(Path(sys.argv[1]).read_text()):
    train.fit = lambda *given, cut=line["cut"], **options: watched(*given, cut=cut, **options)
    codes.append(command.main(line["arguments"]))
train.fit, processes.end = fit, part
if processes.is_first():
    Path(sys.argv[2]).write_text(json.dumps({"codes": codes, "fits": told}))
processes.end()
"""


@dataclass(frozen=True)
class Done:
    """What the commands left: exit codes, traces, and the folder of their results."""

    codes: list[int]
    fits: list[dict]
    out: Path


@pytest.fixture
def commands(llama, words, tmp_path):
    """Return a function that writes the commands of a session, whose results go to a folder."""
    for of_model in (llama, words):
        of_model.save_pretrained(tmp_path / "model")
    table = tmp_path / "questions.csv"
    rows = [
        f"What is the {'job' if i % 3 else 'town'} of Ann{i}?,baker{i % 5},Ann{i},{'job' if i % 3 else 'town'}"
        for i in range(N)
    ]
    table.write_text("\n".join(["question,answer,subject,relation", *rows]) + "\n", encoding="utf-8")

    def written(out: Path, last: str = "") -> Path:
        asked = "--knownness.measure logprob --knownness.shots 1 --knownness.n-prompts 2"
        asked += " --evaluate.max-new-tokens 2 --evaluate.batch-size 3 --split.held-out 0.4 --split.dev 0.1"
        tuning = "--finetune.learning-rates 1e-3 1e-2 --finetune.train.batch-size 5 --finetune.train.micro-batch-size 2"
        tuning += " --finetune.train.epochs 2 --finetune.train.checkpoint-every 2"
        lora = "--finetune.method lora --finetune.learning-rates 1e-2 --finetune.lora.dropout 0.3"
        lora += " --finetune.train.batch-size 3 --finetune.train.checkpoint-every 2"

        def line(
            name: str, more: str = "", *, model: Path = tmp_path / "model", to: Path = out, cut: int | None = None
        ):
            named = [
                "--model.name",
                str(model),
                "--facts.source",
                "table",
                "--facts.path",
                str(table),
                "--out",
                str(to),
            ]
            return {"arguments": [*name.split(), *named, *asked.split(), *more.split()], "cut": cut}

        session = [
            line("score"),
            line("finetune --arm top", tuning),
            line("evaluate", model=out / "top"),
            line("attention", model=out / "top"),
            line("finetune --arm bottom", lora),
            line("finetune --arm bottom", lora, to=out / "cut", cut=7),
            line("finetune --arm bottom", lora, to=out / "cut"),
        ]
        moved = f"{tuning} --finetune.learning-rates 1e-3"
        session.append(line("finetune --arm random", f"{moved} {last}", to=out / "moved", cut=3))
        out.mkdir()
        (out / "session.json").write_text(json.dumps(session))
        (out / "later.json").write_text(json.dumps([line("finetune --arm random", moved, to=out / "moved")]))
        return out / "session.json"

    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py", written


def _done(out: Path) -> Done:
    told = json.loads((out / "told.json").read_text())
    return Done(told["codes"], told["fits"], out)


def _numbers(path: Path) -> dict[str, np.ndarray | list]:
    columns = pq.read_table(path).to_pydict()
    return {name: np.array(rows) if isinstance(rows[0], float) else rows for name, rows in columns.items()}


def test_two_processes_do_what_one_does(commands, tmp_path, monkeypatch):
    script, written = commands
    pair = tmp_path / "pair"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    given = [str(script), str(written(pair, "--finetune.train.shard")), str(pair / "told.json")]
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "timeout": 300}
    ended = subprocess.run([*launcher, *given], **options, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("questions scored") == 1  # the first process alone prints
    one = tmp_path / "one"
    monkeypatch.setattr(sys, "argv", [str(script), str(written(one)), str(one / "told.json")])
    runpy.run_path(str(script))
    moved = []
    for out in (pair, one):  # what two began, the model shared out, one ends
        monkeypatch.setattr(sys, "argv", [str(script), str(out / "later.json"), str(out / "later_told.json")])
        runpy.run_path(str(script))
        moved.append(json.loads((out / "later_told.json").read_text())["fits"][0])
    two, alone = _done(pair), _done(one)
    assert two.codes == alone.codes == [0, 0, 0, 0, 0, 130, 0, 130]
    for fit in two.fits:
        assert len(fit["weights"]) == 2 and fit["weights"][0] == fit["weights"][1]
    # Full finetuning at two rates, one of which is saved: without dropout the same, but for the order of sums.
    for ours, theirs in zip(two.fits[:2], alone.fits[:2], strict=True):
        for point, expected in zip(ours["trace"], theirs["trace"], strict=True):
            assert point == pytest.approx(expected, abs=2e-6)
    scores, expected = (_numbers(done.out / "scores.parquet") for done in (two, alone))
    assert all(np.array_equal(scores[name], expected[name]) for name in expected)  # bit for bit: the same batches
    answers, expected = (_numbers(done.out / "answers.parquet") for done in (two, alone))
    assert answers["predicted"] == expected["predicted"] and answers["question"] == expected["question"]
    assert np.allclose(answers["answer_logprob"], expected["answer_logprob"], atol=1e-4)
    masses, expected = (_numbers(done.out / "attention.parquet") for done in (two, alone))
    assert masses["span"] == expected["span"] and np.allclose(masses["mean"], expected["mean"], atol=1e-4)
    # With dropout, too, an interrupted training of two goes on as if nothing had happened.
    assert two.fits[3]["first"] > two.fits[2]["first"]
    assert two.fits[3]["weights"] == two.fits[2]["weights"] and two.fits[3]["trace"] == two.fits[2]["trace"]
    assert moved[0]["first"] == moved[1]["first"] == 3 / 4  # after the checkpoint of step 2
    for point, expected in zip(moved[0]["trace"], moved[1]["trace"], strict=True):
        assert point == pytest.approx(expected, abs=2e-6)
    assert not [path for path in pair.rglob("*") if path.name.endswith(("work", "partial"))]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"LOCAL_WORLD_SIZE": "1"}, "on several machines"),
        ({"ACCELERATE_USE_FSDP": "true"}, "Leave out FSDP"),
    ],
)
def test_processes_that_cannot_work_together_are_refused(settings, expected, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1") if settings else monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=expected):
        processes.start()


def test_a_process_by_itself_does_all_of_the_work():
    assert list(processes.share("abc")) == [(0, "a"), (1, "b"), (2, "c")]
    assert processes.gathered({1: "b", 0: "a"}) == ["a", "b"]
    assert processes.agreed("a") == "a" and processes.is_first()
