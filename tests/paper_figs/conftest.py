"""A results folder made up so that every claim's numbers are known.

A world has 40 facts: fact i has popularity 1 / (i + 1), salience 20 - i / 2 and the threshold 10; even ones are held
out, the rest is trained on. The h-th held-out fact needs a share of (h + 1/2) / 20, so that an arm whose share of
attention is t recalls 20 t of them, the best known first. The first ten training facts are the top half.

Worlds of a sweep differ by a spread that their mean cancels, so that its rows follow the formulas below exactly.
"""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import columns
from core.runs import SCHEMA
from paper_figs import load
from paper_figs.sweep import SEEDS

# Tests are no package (importlib mode), so that what is beside this file is loaded by its place.
_spec = spec_from_file_location("made_up_studies", Path(__file__).with_name("made_up_studies.py"))
assert _spec is not None and _spec.loader is not None
studies = sys.modules[_spec.name] = module_from_spec(_spec)
_spec.loader.exec_module(studies)

FACT = np.arange(40)
HELD_OUT = FACT % 2 == 0
SALIENCE = 20 - FACT / 2
IN_ARM = {"top": FACT < 20, "bottom": FACT >= 20, "whole": FACT >= 0, "random": FACT % 3 == 0, "base": FACT < 0}
SHARES = {"base": 0.5, "top": 0.7, "bottom": 0.5, "whole": 0.6, "random": 0.6}


class Results(studies.Studies):
    """A folder of made-up runs."""

    def add(
        self, experiment="paper", world=0, split=0, *, predicted=None, path=None, steps=2000, changes=None, **shares
    ) -> Path:
        """Write a run whose arms have these shares of attention, and return its folder.

        `predicted` replaces R5's final shares, which are else those of the arms; `changes`, columns of an arm's facts.
        """
        measured = SHARES | shares
        folder = self.folder / "theory" / experiment / f"pretrain_{world}" / f"split_{split}" / f"seed_{world}"
        folder.mkdir(parents=True)
        report = {
            "schema": SCHEMA,
            "seeds": {"pretrain": world, "split": split, "seed": world},
            "config": {"facts": {"path": path}, "pretrain": {"steps": steps}},
            "metrics": {arm: _metrics(share) for arm, share in measured.items()},
        }
        (folder / "report.json").write_text(json.dumps(report))
        facts = [_facts(arm, share, (changes or {}).get(arm, {})) for arm, share in measured.items()]
        pq.write_table(pa.concat_tables(facts), folder / "facts.parquet")
        ends = measured | (predicted or {})
        trace = [_trace(arm, share, ends[arm]) for arm, share in measured.items()]
        pq.write_table(pa.concat_tables(trace), folder / "trace.parquet")
        return folder

    def add_worlds(self, experiment="paper", tops=(0.7, 0.7, 0.75), **options) -> None:
        """Write one run for each world, which differ in the top half's share."""
        for world, top in enumerate(tops):
            self.add(experiment, world, top=top, **options)

    def add_deep(self, name="deep-2", world=0, *, layers=2, gap=0.1) -> Path:
        """Write a deep run of these layers, with two heads that differ.

        Attention on the subject rises by 0.1 in the first layer and 0.1 more in each further one if finetuned on top,
        on bottom by `gap` less; accuracies differ by `gap` too.
        """
        top = 0.7 + 0.05 * world
        path = self.add(name, world, top=top, bottom=top - gap)
        (path / "facts.parquet").unlink()
        size = (4, layers, 2, 2)  # arm, layer, head, span
        arm, layer, head, span = np.indices(size).reshape(4, -1)
        gain = (0.1 * (layer + 1) - gap * (arm == 2)) * (arm > 0)
        rows = {"layer": layer, "head": head, "mean": 0.3 + 0.04 * head + gain * (span == 0), "position": "prompt_end"}
        words = {
            "arm": np.array(["base", "top", "bottom", "whole"])[arm],
            "span": np.array(["subject", "relation"])[span],
        }
        rows = columns.table(rows | {name: column.tolist() for name, column in words.items()}, columns.ATTENTION)
        pq.write_table(rows, path / "attention.parquet")
        return path

    def add_sweep(self, name, axes=None, measure=None, arms=None, *, n_worlds=3, noise=0.0) -> Path:
        """Write a sweep: the named one of SWEEPS, or with other axes, measure or arms.

        `measure(levels, arm, spread)` returns an arm's columns: `levels` are those of the axes, in their order, and
        `spread` is the row's world less the mean world. `noise` blurs accuracies and shares, for figures to look real.
        """
        axes, measure, arms = (given or own for given, own in zip((axes, measure, arms), SWEEPS[name], strict=True))
        size = (*(len(levels) for levels in axes.values()), n_worlds, len(arms))
        *places, world, arm = np.indices(size).reshape(len(size), -1)
        swept = [np.array(levels)[at] for levels, at in zip(axes.values(), places, strict=True)]
        arm = np.array(arms)[arm]
        numbers = measure(swept, arm, world - (n_worlds - 1) / 2)
        for column in ("accuracy", "subject_share") if noise else ():
            numbers[column] = numbers[column] + np.random.default_rng(len(arm)).normal(scale=noise, size=len(arm))
        numbers |= dict.fromkeys(SEEDS, world) | {"config": '{"a": 1}', "arm": arm.tolist(), "n": 2000}
        rows = columns.table(numbers | {"unit": [f"{at:032x}" for at in range(len(arm))]}, columns.SWEEP)
        for at, (field, values) in enumerate(zip(axes, swept, strict=True)):
            rows = rows.add_column(at, field, pa.array(values.tolist()))
        path = self.folder / "theory" / name
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path / "table.parquet")
        grid = {
            "sweep": name,
            "schema": SCHEMA,
            "arms": list(arms),
            "axes": {"facts.path": ["/home/somebody/facts.tsv"]},
        }
        (path / "grid.json").write_text(json.dumps(grid))
        return path

    def add_everything(self, n_worlds=3) -> None:
        """Write what every figure needs and wants."""
        self.add_worlds(tops=(0.7, 0.7, 0.75)[:n_worlds])
        self.add_worlds("stored", tops=(0.4, 0.4, 0.4)[:n_worlds], steps=8000)
        for name in SWEEPS:
            self.add_sweep(name, n_worlds=n_worlds)
        for name, layers in {"deep-1": 1, "deep-2": 2, "deep-3": 3, "deep-4": 4, "deep-names": 2}.items():
            for world in range(n_worlds):
                self.add_deep(name, world, layers=layers)
        for world in range(n_worlds):
            self.add_study("tiny", world, gap=0.1 + 0.01 * world)
            self.add_study("tiny-lora", world, gap=0.05 + 0.01 * world)
            for name in ("tiny-popqa", "tiny-entity-questions"):
                self.add_study(name, world, gap=0.05 + 0.01 * world, path="/home/somebody/facts")
        self.add_screen(n_models=n_worlds)
        self.add_crossed()
        self.add_crossed("gemma-3-270m-entity-questions")
        self.add_crossed("tiny-crossed")
        for world in range(n_worlds):
            self.add_remedies(world=world)
        self.add_remedies("smollm2-135m-entity-questions-remedies")
        for name, rare in {
            **{"crossed": 0.2, "interference": -0.1, "deep-attention": -0.1},
            **{"deep-1": -0.1, "deep-2": -0.2},
        }.items():
            if name not in ("deep-1", "deep-2"):
                self.add_worlds(name, tops=(0.7, 0.7, 0.75)[:n_worlds])
            self.add_contrasts(name, known=0.05, rare=rare)
        self.add_mediation("deep-2", flow="theory")
        self.add_worlds("everything", tops=(0.7, 0.7, 0.75)[:n_worlds])
        self.add_mediation("everything", flow="theory", moved={"attention@all": 0.95, "value@all": 0.0})
        for name in ("tiny-mediation", "smollm2-135m-entity-questions-mediation"):
            self.add_study(name, gap=0.05)
            self.add_mediation(name)

    def named(self, name) -> tuple:
        """Return axes, measure and arms of a named sweep, to change them."""
        return SWEEPS[name]

    def read(self) -> dict[str, load.Experiment]:
        return load.results(self.folder).experiments

    def read_sweep(self, name) -> load.Sweep:
        return load.results(self.folder).sweeps[name]


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "runs")


def _metrics(share):
    accuracy = float(np.mean(_needed()[HELD_OUT] < share))
    return {"accuracy": accuracy, "subject_attention": share, "subject_share": share, "generic_rate_arm": 1 - share}


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


def _lead(lead, predicted, arm):
    """Return columns in which top leads bottom by `lead` in accuracy and in share, where R5 says `predicted`."""
    side = np.select([arm == "top", arm == "bottom"], [0.5, -0.5])
    forecast = np.where(arm == "base", np.nan, 0.6 + side * predicted)
    return {"accuracy": 0.6 + side * lead, "subject_share": 0.6 + side * lead, "predicted_subject_share": forecast}


def _exposure(levels, arm, spread):
    """Top leads by 0.05 for each doubling of pretraining below the boundary, which R5 puts a quarter higher."""
    exponent, steps = levels
    lead = 0.05 * (10.5 + exponent - np.log2(steps))
    return _lead(lead + 0.004 * spread, lead + 0.05 / 4, arm)


def _format(levels, arm, spread):
    """Top trails by 0.01 for each unit of template strength below the boundary, which R5 puts a half lower."""
    skew, strength = levels
    lead = 0.01 * (strength - 4 - 2 * skew)
    return _lead(lead + 0.004 * spread, lead + 0.01 / 2, arm)


def _dose(share, size, spread):
    measured = 0.55 + 0.1 * share
    gain = (0.1 + 0.01 * spread) * share + 0.02 * np.log2(size)
    return {"accuracy": 0.6 + gain, "subject_share": measured, "predicted_subject_share": measured + 0.004}


REMEDIES = {
    "early stopping": (0.60, 0.54, 0.30),
    "none": (0.60, 0.50, 0.40),
    "KL 0.1": (0.60, 0.60, 0.35),
    "values only": (0.50, 0.40, 0.45),
}
"""Held-out accuracy of top and of bottom, and of bottom on its own facts."""


def _remedies(levels, arm, spread):
    top, bottom, trained = np.array([REMEDIES[name] for name in levels[0]]).T
    return {"accuracy": np.where(arm == "top", top, bottom) + 0.01 * spread, "trained_accuracy": trained}


STEPS = np.round(np.geomspace(500, 16000, 6)).astype(int)
SWEEPS = {
    "phase-exposure": (
        {"facts.popularity_exponent": [0.6, 1.0, 1.4], "pretrain.steps": STEPS},
        _exposure,
        ("base", "top", "bottom"),
    ),
    "phase-format": (
        {"facts.answer_skew": [0.0, 1.0, 2.0], "model.template_strength": [0.0, 5.0, 10.0, 20.0]},
        _format,
        ("base", "top", "bottom"),
    ),
    "dose-share": (
        {"split.known_share": [0.0, 0.5, 1.0], "split.size": [0.125, 0.25, 0.5]},
        lambda levels, arm, spread: _dose(levels[0], levels[1], spread),
        ("base", "mixture"),
    ),
    "dose-size": (
        {"split.size": [0.05, 0.1, 0.2, 0.4], "split.known_share": [0.0, 0.5, 1.0]},
        lambda levels, arm, spread: _dose(levels[1], levels[0], spread),
        ("base", "mixture"),
    ),
    "remedies": ({"remedy": list(REMEDIES)}, _remedies, ("top", "whole", "random", "bottom")),
}
"""Axes, measure and arms of the named sweeps."""
