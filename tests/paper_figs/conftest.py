"""A results folder made up so that every claim's numbers are known.

A world has 40 facts: fact i has popularity 1 / (i + 1), salience 20 - i / 2 and the threshold 10; even ones are held
out, the rest is trained on. The h-th held-out fact needs a share of (h + 1/2) / 20, so that an arm whose share of
attention is t recalls 20 t of them, the best known first. The first ten training facts are the top half.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paper_figs import load

FACT = np.arange(40)
HELD_OUT = FACT % 2 == 0
SALIENCE = 20 - FACT / 2
IN_ARM = {"top": FACT < 20, "bottom": FACT >= 20, "whole": FACT >= 0, "random": FACT % 3 == 0, "base": FACT < 0}
SHARES = {"base": 0.5, "top": 0.7, "bottom": 0.5, "whole": 0.6, "random": 0.6}


class Results:
    """A folder of made-up runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(
        self, experiment="paper", world=0, split=0, *, predicted=None, table=None, steps=2000, changes=None, **shares
    ) -> Path:
        """Write a run whose arms have these shares of attention, and return its folder.

        `predicted` replaces R5's final shares, which are else those of the arms; `changes`, columns of an arm's facts.
        """
        measured = SHARES | shares
        path = self.folder / "theory" / experiment / f"pretrain_{world}" / f"split_{split}" / f"seed_{world}"
        path.mkdir(parents=True)
        report = {
            "seeds": {"pretrain": world, "split": split, "seed": world},
            "config": {"facts": {"table": table}, "pretrain": {"steps": steps}},
            "metrics": {arm: _metrics(share) for arm, share in measured.items()},
        }
        (path / "report.json").write_text(json.dumps(report))
        facts = [_facts(arm, share, (changes or {}).get(arm, {})) for arm, share in measured.items()]
        pq.write_table(pa.concat_tables(facts), path / "facts.parquet")
        ends = measured | (predicted or {})
        trace = [_trace(arm, share, ends[arm]) for arm, share in measured.items()]
        pq.write_table(pa.concat_tables(trace), path / "trace.parquet")
        return path

    def add_worlds(self, experiment="paper", tops=(0.7, 0.7, 0.75), **options) -> None:
        """Write one run for each world, which differ in the top half's share."""
        for world, top in enumerate(tops):
            self.add(experiment, world, top=top, **options)

    def read(self) -> dict[str, load.Experiment]:
        return load.experiments(self.folder)


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "runs")


def _metrics(share):
    accuracy = float(np.mean(_needed()[HELD_OUT] < share))
    return {"accuracy": accuracy, "subject_attention": share, "subject_share": share}


def _needed():
    return (FACT // 2 + 0.5) / 20


def _facts(arm, share, changes):
    columns = {
        "fact": FACT,
        "subject": [f"s{fact}" for fact in FACT],
        "popularity": 1 / (FACT + 1),
        "exposure": 1000 / (FACT + 1),
        "salience": SALIENCE,
        "predicted_salience": SALIENCE,
        "role": np.where(HELD_OUT, "held_out", "train"),
        "in_arm": IN_ARM[arm] & ~HELD_OUT,
        "correct": _needed() < share,
        "subject_attention": np.full(40, share),
        "relation_attention": np.full(40, 1 - share),
        "critical_low": _needed(),
        "critical_high": np.ones(40),
        "share_force": SALIENCE - 10,
        "salience_threshold": np.full(40, 10.0),
    }
    return pa.table({"arm": pa.array([arm] * 40).dictionary_encode()} | columns | changes)


def _trace(arm, share, predicted):
    steps = np.array([0, 10])
    shares = {"subject_share": [0.5, share], "predicted_subject_share": [0.5, predicted]}
    return pa.table({"arm": pa.array([arm] * 2).dictionary_encode(), "step": steps} | shares)
