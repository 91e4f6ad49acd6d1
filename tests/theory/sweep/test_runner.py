"""A sweep's rows are those of the runs that they stand for, whatever they were computed together with, and when."""

import json
import math
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from core import config_json, split
from core.errors import InputError
from core.seeds import Cell
from theory import design, finetune, measure, pipeline, pretrain
from theory.config import Config
from theory.engine import batched
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.law import forecast, predict
from theory.pretrain import PretrainConfig
from theory.sweep import parts, runner

ROOT = Path(__file__).resolve().parents[3]
TINY = Config(
    facts=FactsConfig(n_subjects=60),
    pretrain=PretrainConfig(steps=80, batch_size=64),
    finetune=FinetuneConfig(steps=40, batch_size=64),
    n_records=1,
)
GRID = ("facts.popularity_exponent=0.6,1.4", "pretrain.steps=50,80", "model.template_strength=5,20")


def run(folder: Path, *axes: str, base: Config = TINY, seeds: int = 2, **options) -> runner.Summary:
    """Return the summary of a sweep over these axes, with two seeds."""
    return runner.run("tiny", design.grid(base, axes), out=folder, seeds=seeds, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> runner.Summary:
    """A finished sweep over GRID; its folder is not to be changed."""
    return run(tmp_path_factory.mktemp("finished"), *GRID)


METRICS = {
    "accuracy": "accuracy",
    "train_accuracy": "trained_accuracy",
    "retention": "retention",
    "generic_rate": "generic_rate",
    "loss": "loss",
    "subject_attention": "subject_attention",
    "relation_attention": "relation_attention",
    "template_attention": "template_attention",
    "subject_share": "subject_share",
}
"""Name in a run's report to column."""


def check_rows(rows: list[dict], config: Config) -> None:
    """Compare two seeds' rows of a config with the runs of its own."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    simulations = pipeline.simulate(config, [Cell(k, k, k) for k in range(2)])
    measured = [measure.run(config, one)[0] for one in simulations]
    assert [(row["seed"], row["arm"]) for row in rows] == [(k, arm) for k in range(2) for arm in arms]
    for row in rows:
        one, metrics = simulations[row["seed"]], measured[row["seed"]][row["arm"]]
        is_base = row["arm"] == "base"
        assert row["n"] == metrics["n"] and row["diverged_at"] is None
        assert row["n_trained"] == (None if is_base else len(one.split.arms[row["arm"]]))
        assert json.loads(row["config"])["pretrain"]["steps"] == config.pretrain.steps
        for name, column in METRICS.items():
            found = math.nan if row[column] is None else row[column]
            # A tie of two answers may fall otherwise in single precision.
            slack = 1e-5 if "attention" in name or name in ("subject_share", "loss") else 1.01 / row["n"]
            assert found == pytest.approx(metrics[name], abs=slack, rel=1e-5, nan_ok=True), (row["arm"], name)
        predicted = None if is_base else measure.predicted_path(config, one, row["arm"])
        for column, index in (("predicted_subject_share", "share"), ("predicted_subject_attention", "attention")):
            if predicted is None or config.model.parametrisation == "dense" or config.finetune.train == "values":
                assert row[column] is None
            elif not config.model.value_share:
                end = np.ravel(getattr(predicted, index)[-1])[0]
                assert row[column] == pytest.approx(end, abs=2e-3), (row["arm"], column)


def test_a_row_is_what_the_run_of_its_config_and_seeds_measures(finished, monkeypatch):
    monkeypatch.setattr(predict, "SMALL_ARM", 0)  # a sweep's forecast leaves the subjects' own logits out
    made, rows = design.grid(TINY, GRID), finished.table.to_pylist()
    assert len(rows) == len(made.configs) * 2 * 5 == 80
    for index in (0, 3, 6):  # both exponents, lengths and strengths
        check_rows(rows[10 * index : 10 * index + 10], made.configs[index])
    of_strength = [[row["accuracy"] for row in rows[10 * index : 10 * index + 10]] for index in (0, 1)]
    assert of_strength[0] != of_strength[1]


VARIANTS = {
    "margin, values read, both trained": {
        "knownness.measure": "margin",
        "model.value_share": 0.2,
        "finetune.train": "everything",
        "finetune.value_learning_rate": 0.3,
        "split.known_share": 0.25,
        "split.size": 0.4,
    },
    "salience, values trained": {"knownness.measure": "salience", "finetune.train": "values"},
    "dense, float64": {
        "model.parametrisation": "dense",
        "precision": "float64",
        "facts.n_answers": 5,
        "model.n_filler": 10,
        "split.known_share": 0.75,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_is_trained_and_however_facts_are_ranked_rows_are_the_runs_own(name, tmp_path):
    base = design.replace(TINY, VARIANTS[name])
    arms = ("bottom", split.MIXTURE) if base.split.known_share else ("top", "bottom")
    summary = run(tmp_path, "pretrain.steps=50,80", base=base, arms=arms)
    rows = summary.table.to_pylist()
    assert [row["pretrain.steps"] for row in rows] == [50] * 6 + [80] * 6
    check_rows(rows[:6], replace(base, pretrain=replace(base.pretrain, steps=50)))
    check_rows(rows[6:], base)


NUMBERS = [
    ("facts.popularity_exponent=0.5,1.5", "facts.answer_skew=0,1", "pretrain.steps=10,30", "finetune.steps=5,20"),
    ("facts.exposure_exponent=0.5,1", "model.shared_share=0.2,0.7", "pretrain.learning_rate=10,40,50"),
    ("model.template_strength=1,9", "finetune.learning_rate=0.5,1", "pretrain.steps=20"),
]


def test_numbers_share_a_program_for_each_stage_and_only_another_shape_needs_its_own(tmp_path):
    for stage in (pretrain, finetune, forecast):
        stage._program.cache_clear()  # whatever other tests have compiled
    base = replace(TINY, model=replace(TINY.model, n_filler=49))
    before = batched.PROCESS.compilations
    for axes in NUMBERS[:2]:
        run(tmp_path, *axes, base=base, arms=("top", "bottom"))
    # One length, in place of two, is another shape of what pretraining returns.
    assert batched.PROCESS.compilations - before == 3 + 1
    run(tmp_path, *NUMBERS[2], base=base, arms=("top", "bottom"))
    assert batched.PROCESS.compilations - before == 3 + 1
    found = run(tmp_path, "facts.n_subjects=60,40", "pretrain.steps=20,25", base=base, arms=("top", "bottom")).table
    assert batched.PROCESS.compilations - before == 3 + 1 + 3
    assert [row["n"] for row in found.to_pylist()] == [120] * 12 + [80] * 12


@pytest.mark.filterwarnings("ignore:R5. .* flows overflow")  # of one step at such a rate
def test_what_diverges_has_no_numbers_and_spares_the_others(tmp_path):
    summary = run(tmp_path, "pretrain.learning_rate=40,1e6,9e5", "pretrain.steps=1,80")
    rows = np.array(summary.table.to_pylist()).reshape(3, 2, 10)
    sound = run(tmp_path / "sound", "pretrain.steps=1,80").table.to_pylist()
    columns = [*METRICS.values(), "predicted_subject_share", "diverged_at"]
    assert [[row[c] for c in columns] for row in rows[0].ravel()] == [[row[c] for c in columns] for row in sound]
    diverged = replace(TINY, pretrain=replace(TINY.pretrain, learning_rate=1e6))
    with pytest.raises(InputError, match=f"pretrain diverged at step {rows[1, 1, 0]['diverged_at']} "):
        pipeline.simulate(diverged, [Cell(0, 0, 0), Cell(1, 1, 1)])
    for row in rows[1:, 1].ravel():
        assert 0 < row["diverged_at"] < 20
        assert [row[column] for column in columns[:-1]] == [None] * (len(columns) - 1)
        assert row["n"] == 120
    # A pretraining of one step has not seen what becomes of it later.
    assert [row["diverged_at"] for row in rows[1:, 0].ravel() if row["arm"] == "base"] == [None] * 4


def test_a_finetuning_that_diverges_leaves_its_base_and_the_other_arms_rows(tmp_path):
    base = design.replace(TINY, VARIANTS["margin, values read, both trained"])
    axes = ("pretrain.steps=50,80", "finetune.value_learning_rate=0.3,1e6")
    rows = np.array(run(tmp_path, *axes, base=base, arms=("bottom", "mixture")).table.to_pylist()).reshape(2, 2, 2, 3)
    for row in rows[:, :, :, 0].ravel():
        assert row["arm"] == "base" and row["diverged_at"] is None and row["loss"] > 0
    for row in rows[:, 1, :, 1:].ravel():
        assert 0 < row["diverged_at"] < 40 and row["accuracy"] is None and row["n_trained"] > 0
    assert all(row["diverged_at"] is None and row["accuracy"] > 0 for row in rows[:, 0].ravel() if row["arm"] != "base")


@pytest.mark.parametrize("measure", ["margin", "salience"])
def test_a_diverged_base_of_which_nothing_is_known_spares_the_others_too(measure, tmp_path):
    base = design.replace(TINY, {"knownness.measure": measure})
    rows = run(tmp_path, "pretrain.learning_rate=40,1e6", "pretrain.steps=50,80", base=base).table.to_pylist()
    assert [row["diverged_at"] is None for row in rows] == [True] * 20 + [False] * 20
    assert [row["accuracy"] is None for row in rows] == [False] * 20 + [True] * 20


class Interrupted(Exception):
    pass


def interrupted(chunks):
    """Compute one chunk, and be ended in the next."""
    for number, chunk in enumerate(chunks):
        if number:
            raise Interrupted
        yield chunk, runner.compute(chunk)


def test_a_resumed_sweep_has_the_same_bytes_as_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "CHUNK", 8)
    with pytest.raises(Interrupted):
        run(tmp_path, *GRID, engine=interrupted)
    assert not (tmp_path / "theory/tiny/table.parquet").exists()
    monkeypatch.undo()
    resumed = run(tmp_path, *GRID)
    assert (resumed.n_units, resumed.n_computed) == (16, 8)
    assert resumed.path.read_bytes() == finished.path.read_bytes()
    assert run(tmp_path, *GRID).n_computed == 0
    assert resumed.path.read_bytes() == finished.path.read_bytes()


def test_a_changed_grid_computes_only_what_is_new_and_says_so_to_the_bar(finished, tmp_path):
    axes = ("facts.popularity_exponent=1.4", "model.template_strength=20", "pretrain.steps=80,50")
    told = []
    assert run(tmp_path, *axes).n_computed == 4
    wider = run(tmp_path, *GRID, progress=lambda doing, n: told.append((doing, n)))
    assert wider.n_computed == 12
    assert wider.path.read_bytes() == finished.path.read_bytes()
    assert told[0] == ("", 4) and sum(n for _, n in told) == 16
    assert run(tmp_path, *GRID, seeds=3).n_computed == 8
    again = run(tmp_path, *axes, seeds=1)
    assert again.n_computed == 0 and again.table.num_rows == 10
    described = json.loads((wider.path.parent / "grid.json").read_text())
    assert described["axes"] == {
        "facts.popularity_exponent": [1.4],
        "model.template_strength": [20],
        "pretrain.steps": [80, 50],
    }
    assert (described["sweep"], described["seeds"], described["arms"]) == ("tiny", 1, list(split.ARMS))
    assert described["configs"] == 2 and {"schema", "versions", "device"} <= set(described)


def test_what_is_in_work_is_finished_before_others_are_waited_for(finished, tmp_path, monkeypatch):
    """Else two processes, each with chunks handed out and not yet collected, would wait for each other."""
    monkeypatch.setattr(runner, "CHUNK", 8)
    monkeypatch.setattr(runner, "WAIT", 0.0)
    units, names = runner._units(design.grid(TINY, GRID), 2, split.ARMS)
    last = runner._chunks(units, names, split.ARMS)[-1]
    store = parts.Store(tmp_path / "theory/tiny", print)
    other = ExitStack()
    assert other.enter_context(store.claim(config_json.config_hash(last.names)))
    done_by_then = []

    def progress(doing: str, _: int) -> None:
        if doing == "waiting for another process":
            done_by_then.append(len(store.done()))
            other.close()

    def ahead(chunks):
        return ((chunk, runner.compute(chunk)) for chunk in list(chunks))

    assert run(tmp_path, *GRID, engine=ahead, progress=progress).path.read_bytes() == finished.path.read_bytes()
    assert done_by_then == [8]


def test_a_unit_that_a_random_design_draws_twice_is_computed_once(tmp_path):
    drawn = design.sample(TINY, ["pretrain.steps=50,80"], method="random", n=6, seed=0)
    assert len(set(drawn.configs)) == 2
    summary = runner.run("drawn", drawn, seeds=2, out=tmp_path)
    assert summary.n_computed == 4
    rows = summary.table.to_pylist()
    assert [row["pretrain.steps"] for row in rows[::10]] == [config.pretrain.steps for config in drawn.configs]


UNEQUAL = [(f"s{k}", f"r{r}", f"a{(k * 7 + r) % 5}", 1 / (k + 1)) for k in range(50) for r in range(1 + k % 4)]


def test_a_units_row_does_not_depend_on_the_units_it_was_computed_with(tmp_path, monkeypatch):
    """Subjects of a real table have unequally many facts, so that held-out sets differ in size."""
    path = tmp_path / "facts.csv"
    path.write_text("\n".join(["subject,relation,answer,popularity", *(",".join(map(str, row)) for row in UNEQUAL)]))
    base = replace(TINY, facts=FactsConfig(path=path), finetune=replace(TINY.finetune, replay=0.2))
    together = run(tmp_path / "together", base=base, seeds=4).table
    assert len(set(together["n"].to_pylist())) > 1
    for row in together.to_pylist():
        assert row["accuracy"] * row["n"] == pytest.approx(round(row["accuracy"] * row["n"]), abs=1e-3)
    monkeypatch.setattr(runner, "CHUNK", 2)
    apart = run(tmp_path / "apart", base=base, seeds=4).table
    for one, other in zip(apart.to_pylist(), together.to_pylist(), strict=True):
        # Sums over sets padded to other lengths may round differently.
        for name, value in one.items():
            assert value == (pytest.approx(other[name], rel=1e-5) if isinstance(value, float) else other[name])


SHARDED = """
import sys
from pathlib import Path
import jax
sys.path.insert(0, {tests!r})
import test_runner
assert jax.device_count() == 8
print(test_runner.run(Path(sys.argv[1]), *test_runner.GRID).n_computed)
"""


def test_eight_devices_give_the_same_table_as_fewer(finished, tmp_path):
    """A process of its own: the number of devices is fixed when JAX starts."""
    assert jax.device_count() < 8
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-c", SHARDED.format(tests=str(Path(__file__).parent)), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "16\n", done.stderr
    assert (tmp_path / "theory/tiny/table.parquet").read_bytes() == finished.path.read_bytes()
