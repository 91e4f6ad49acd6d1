"""The toy calibrated to a language model: how long it is pretrained, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import arms, runs
from core.errors import InputError
from core.facts.store import Background
from core.seeds import Cell
from theory import calibrate, pipeline
from theory import config as configs
from theory.experiments import EXPERIMENTS
from theory.facts import FactsConfig
from theory.inputs import Unit
from theory.knownness import KnownnessConfig

QUICK = ["--finetune.steps", "40", "--n-records", "2", "--pretrain.batch-size", "64"]


@pytest.fixture
def scores(tmp_path) -> Path:
    """A table as `empirical score` writes it: two relations of 200 facts, the better known with commoner answers."""
    rng = np.random.default_rng(0)
    path = tmp_path / "scores.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "relation", "answer", "knownness", "percentile"])
        for row in range(400):
            answer = min(rng.geometric(0.3), 15 - row // 40)
            rows.writerow([f"s{row}", f"r{row % 2}", f"a{row % 2}-{answer}", -row / 100, (400 - row) / 400])
    return path


def recall_of(config, n_steps: int, seed: int = 0) -> float:
    """Return the share of the world's own facts that a base model recalls."""
    asked = replace(
        config, pretrain=replace(config.pretrain, steps=n_steps), knownness=KnownnessConfig(measure="margin")
    )
    (base,) = pipeline.pretrained([Unit(asked, Cell(seed, 0, 0))], pipeline.Clock())
    return float((base.knownness > 0)[~base.store.is_background].mean())


def test_the_length_that_is_found_recalls_the_share_that_was_asked_for(small):
    recall = 0.6
    found = calibrate.steps(small, recall)
    assert found.recall == pytest.approx(recall, abs=0.02)
    assert recall_of(small, found.steps) == found.recall
    assert recall_of(small, found.steps, seed=1) == pytest.approx(recall, abs=0.06)
    assert found.by_fifth.mean() == pytest.approx(found.recall)
    assert (np.diff(found.by_fifth) < 0).all() and found.generic < recall


def test_more_is_recalled_after_longer_pretraining_which_may_be_longer_than_the_first_try(small, monkeypatch):
    monkeypatch.setattr(calibrate, "FIRST", 100)
    less, more = (calibrate.steps(small, recall) for recall in (0.4, 0.6))
    assert 100 < less.steps < more.steps
    assert (less.recall, more.recall) == pytest.approx((0.4, 0.6), abs=0.02)


def test_of_a_background_population_nothing_is_asked(small):
    config = replace(small, facts=replace(small.facts, background=Background(size=1.0)))
    found = calibrate.steps(config, 0.5)
    assert recall_of(config, found.steps) == found.recall == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("recall", [0.0, 1.0, -0.2, 1.7])
def test_a_share_out_of_range_is_refused(small, recall):
    with pytest.raises(InputError, match=f"--recall is {recall}: it must lie between 0 and 1"):
        calibrate.steps(small, recall)


def test_a_share_that_generic_answers_alone_exceed_is_refused_with_their_share(small):
    with pytest.raises(InputError, match=r"--recall is 0.1: .* right for 0\.2\d\d of(.|\n)*--facts.relations"):
        calibrate.steps(small, 0.1)


def test_a_share_that_is_never_reached_is_refused_with_the_highest(small, monkeypatch):
    monkeypatch.setattr(calibrate, "FIRST", 100)
    monkeypatch.setattr(calibrate, "MOST", 100)
    with pytest.raises(InputError, match=r"recalls 0\.\d{3} of the facts at most, in 100 steps(.|\n)*exponent"):
        calibrate.steps(small, 0.9)


def test_a_language_models_scores_become_a_world_with_the_studies_arms(scores, tmp_path, tell):
    told = tell("run", "questions", "--facts.path", scores, "--recall", 0.5, *QUICK, "--out", tmp_path / "runs")
    assert told.code == 0, told.error
    assert "--pretrain.steps" in told.err and "by fifths of popularity" in told.err
    run = runs.read_run(tmp_path / "runs/theory/questions/pretrain_0/split_0/seed_0")
    own = [name for name in arms.NAMES if name not in (*arms.CLASSES, "not_modal")]
    assert list(run.report["metrics"]) == ["base", "top", "bottom", "whole", "random", *own]
    assert run.report["metrics"]["base"]["base_recall"] == pytest.approx(0.5, abs=0.1)
    base = run.table("facts").to_pylist()[:400]
    ranks = [int(row["subject"][1:]) for row in sorted(base, key=lambda row: -row["exposure"])]
    assert ranks == list(range(400))
    # The chosen length is in the config: with it for a flag the run is found done.
    length = ["--pretrain.steps", run.report["config"]["pretrain"]["steps"]]
    told = tell("run", "questions", "--facts.path", scores, *length, *QUICK, "--out", tmp_path / "runs")
    assert "0 runs made, 1 found done" in told.out


def test_a_dry_run_needs_no_table_and_chooses_nothing(tell):
    told = tell("run", "questions", "--recall", 0.5, "--pretrain.steps", 123, "--dry-run")
    assert told.code == 0 and told.err == ""
    assert configs.from_json(json.loads(told.out)).pretrain.steps == 123


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--recall", "0.5"], "questions needs a table of facts.\nMake one with python -m empirical score"),
        (["--facts.path", "SCORES", "--recall", "0.05"], "most frequent answers alone are right for"),
        (["--facts.path", "SCORES", "--more-arms", "rare", "unknown"], "--more-arms rare unknown: name each of common"),
        (["--facts.path", "SCORES", "--facts.columns.popularity", "share"], "share"),
    ],
)
def test_what_cannot_be_calibrated_or_run_is_refused(flags, named, scores, tmp_path, tell):
    given = [str(scores) if flag == "SCORES" else flag for flag in flags]
    told = tell("run", "questions", *given, "--out", tmp_path / "runs")
    assert told.code == 2
    assert named in told.error
    assert not list(tmp_path.glob("runs/*"))


def test_further_arms_move_none_of_the_others_and_configs_without_them_are_stored_as_before(small):
    more = replace(small, more_arms=("rare", "common"))
    assert "more_arms" not in configs.to_json(small)
    assert configs.from_json(configs.to_json(more)) == more
    (plain,), (further,) = (pipeline.pretrained([Unit(one, Cell(0, 0, 0))], pipeline.Clock()) for one in (small, more))
    for arm, rows in plain.split.arms.items():
        np.testing.assert_array_equal(rows, further.split.arms[arm])
    counts = np.bincount(further.store.answer[further.split.arms["whole"]], minlength=further.store.n_answers)
    rare, common = (counts[further.store.answer[further.split.arms[arm]]] for arm in ("rare", "common"))
    assert rare.max() <= common.min()


def test_the_experiments_facts_are_ranked_by_the_scores_percentile():
    facts: FactsConfig = EXPERIMENTS["questions"][1].facts
    assert (facts.columns.popularity, facts.popularity) == ("percentile", "rank")
