"""A language model's studies made up so that every claim's numbers are known; written by conftest.py's Results.

Of a study whose halves are a gap g apart, arms lie at 0.3 + SIDES · g in accuracy, twice as far apart in retention, the
other way round and half as far on unknown facts, and twice as far in generic answers; and at 0.4 + SIDES · g in
attention, of which each layer l has 2 (l + 1) / (layers + 1) times as much, and the heads of a layer differ by 0.02,
in reverse in odd base models.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import columns
from core.runs import SCHEMA
from paper_figs import load

SIDES = {"base": 0.0, "top": 0.5, "whole": 0.25, "random": 0.0, "bottom": -0.5}
RARITY = {"rare": 1, "common": -1}
N_FIFTHS = 5
N_QUESTIONS = 200


class Studies:
    """A folder of made-up results, of which these are a language model's."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add_study(self, name="tiny", world=0, seed=0, *, gap=0.1, layers=2, path=None) -> Path:
        """Write a run of a study whose halves are `gap` apart, and return its folder."""
        return _write_run(self.folder, name, world, seed, gap=gap, layers=layers, path=path)

    def add_crossed(self, name="smollm2-135m-entity-questions", *, known=0.1, rare=-0.05, n_splits=3) -> None:
        """Write a published model's runs, a split each, in which knownness and rarity do what is said, on average."""
        for split in range(n_splits):
            run = self.folder / "empirical" / name / "pretrain_0" / f"split_{split}" / f"seed_{split}"
            run.mkdir(parents=True)
            arms = {"base": 0.0, "top": 0.3, "bottom": 0.2}
            arms |= _crossed(known + 0.01 * (split - (n_splits - 1) / 2), rare)
            report = {
                "schema": SCHEMA,
                "seeds": {"pretrain": 0, "split": split, "seed": split},
                "config": {"facts": {"path": None, "buckets": None}, "model": {"name": "package:somebody"}},
                "model": {"name": "package:somebody"},
                "metrics": {arm: _of_crossed(arm, share) for arm, share in arms.items()},
            }
            (run / "report.json").write_text(json.dumps(report))
        pq.write_table(_predictions(name, known, n_splits), self.folder / "empirical" / name / "predictions.parquet")

    def add_questions(self, name="smollm2-135m-entity-questions") -> None:
        """Give a published model's runs the questions that all its splits hold out, right at random."""
        for path in sorted((self.folder / "empirical" / name).glob("*/*/*/report.json")):
            arms = json.loads(path.read_text())["metrics"]
            tables = [columns.table(_questions(arm, of["accuracy"]), columns.FACTS) for arm, of in arms.items()]
            pq.write_table(pa.concat_tables(tables).unify_dictionaries(), path.with_name("facts.parquet"))

    def add_contrasts(self, name, *, known, rare) -> None:
        """Give an experiment of the theory arms in which knownness, by world the more, and rarity do what is said."""
        for number, path in enumerate(sorted((self.folder / "theory" / name).glob("*/*/*/report.json"))):
            report = json.loads(path.read_text())
            shares = {arm: of["accuracy"] for arm, of in report["metrics"].items()}
            shares |= _crossed(known + 0.01 * number, rare)
            report["metrics"] |= {
                arm: report["metrics"].get(arm, {}) | _of_crossed(arm, at) for arm, at in shares.items()
            }
            path.write_text(json.dumps(report))

    def add_remedies(self, name="tiny-remedies", world=0, *, gap=0.1, gains=None) -> None:
        """Write a run of a study in which remedies raise the bottom half by so much."""
        gains = {"kl_weight=1": 0.06, "frozen=mlp": -0.02} if gains is None else gains
        path = self.add_study(name, world, gap=gap) / "report.json"
        report = json.loads(path.read_text())
        bottom = report["metrics"]["bottom"]
        for remedy, gain in gains.items():
            changed = {"accuracy": bottom["accuracy"] + gain * (1 + 0.01 * world), "train_accuracy": 0.9}
            report["metrics"][f"bottom+{remedy}"] = bottom | changed
        report["seconds"] = dict.fromkeys(report["metrics"], 10.0)
        path.write_text(json.dumps(report))

    def add_mediation(self, name="tiny-mediation", *, flow="empirical", moved=None, gap=0.1) -> None:
        """Write what moved in the runs of a study, or of an experiment of the theory: shares, to and fro alike."""
        moved = {"attention@all": 0.25, "mlp": 0.6} if moved is None else moved
        for number, report in enumerate(sorted((self.folder / flow / name).glob("*/*/*/report.json"))):
            rows = []
            for receiver, donor, sign in (("bottom", "top", 1), ("top", "bottom", -1)):
                for what, share in {"receiver": 0.0, "donor": 1.0, **moved}.items():
                    spread = 1 + 0.01 * number * (what in moved)
                    accuracy = 0.4 - sign * gap / 2 + sign * gap * share * spread
                    variances = {"moved_variance": (0.05 * gap) ** 2, "gap_variance": 0.0, "covariance": 0.0}
                    names = {"receiver": receiver, "donor": donor, "intervention": what}
                    rows.append(names | {"accuracy": accuracy, "logprob": 10 * accuracy} | variances)
            table = {column: [row[column] for row in rows] for column in rows[0]}
            pq.write_table(columns.table(table, columns.MEDIATION), report.with_name("mediation.parquet"))

    def add_screen(self, parts=("factorial", "fine", "recipe"), *, with_toy=True, n_models=2, true=None) -> Path:
        """Write the screen study's table, in which factors do what `true` says, else TRUE; return the table's place."""
        true = TRUE if true is None else true
        return _write_screen(self.folder, parts=parts, with_toy=with_toy, n_models=n_models, true=true)

    def read_studies(self) -> dict[str, load.Experiment]:
        finished = load.results(self.folder)
        return finished.experiments | finished.studies

    def read_screen(self) -> load.Screen:
        return load.results(self.folder).screens["screen"]


def _write_run(folder: Path, name: str, world: int, seed: int, *, gap: float, layers: int, path: str | None) -> Path:
    """Write a run of a study, and the study's verdicts on all its runs."""
    study = folder / "empirical" / name
    run = study / f"pretrain_{world}" / f"split_{world}" / f"seed_{seed}"
    run.mkdir(parents=True)
    report = {
        "schema": SCHEMA,
        "seeds": {"pretrain": world, "split": world, "seed": seed},
        "config": {
            "facts": {"path": path, "buckets": path},
            "model": {"name": "" if path is None else "/home/somebody/lm"},
        },
        "model": {"name": f"/home/somebody/models/seed{world}"},
        "metrics": {arm: _metrics(arm, gap) for arm in SIDES},
    }
    (run / "report.json").write_text(json.dumps(report))
    pq.write_table(_attention(gap, layers, is_odd=world % 2 == 1), run / "attention.parquet")
    facts = columns.table({"arm": "base", "subject": ["somebody"], "popularity": 1.0}, columns.FACTS)
    pq.write_table(facts, run / "facts.parquet")
    n_runs = len(list(study.glob("*/*/*/report.json")))
    pq.write_table(_predictions(name, gap, n_runs), study / "predictions.parquet")
    return run


def _metrics(arm, gap):
    side = SIDES[arm] * gap
    numbers = {"accuracy": 0.3 + side, "retention": 0.5 + 2 * side, "unknown_accuracy": 0.1 - side / 2}
    if arm == "base":
        numbers = dict.fromkeys(numbers, 0.0)
    return numbers | {"subject_attention": 0.25 if arm == "base" else 0.4 + side, "generic_rate": 0.4 - 2 * side}


def _questions(arm, share):
    right = np.random.default_rng(0).random(N_QUESTIONS) < share
    attention = {"top": 0.08, "bottom": 0.06}.get(arm, 0.07)
    words = {"arm": arm, "role": "held_out", "subject": [f"s{i}" for i in range(N_QUESTIONS)], "relation": "r"}
    numbers = {"fact": np.arange(N_QUESTIONS), "correct": right, "base_correct": True, "is_generic": False}
    return words | numbers | {"subject_attention": attention}


def _of_crossed(arm, share):
    """Answers are the more generic the more are right, and attention is the same in all arms."""
    return {"accuracy": share, "retention": 2 * share, "subject_attention": 0.07, "generic_rate": 0.5 * share}


def _crossed(known, rare):
    """Accuracies of the arms that tell knownness from rarity; of matched halves knownness is worth as much."""
    sides = {"known": known / 2, "unknown": -known / 2}, {"rare": rare / 2, "common": -rare / 2}
    cells = product(*(side.items() for side in sides))
    matched = {"top_matched": 0.3 + known / 2, "bottom_matched": 0.3 - known / 2}
    return matched | {
        f"{one}_{other}": 0.3 + by_knownness + by_rarity for (one, by_knownness), (other, by_rarity) in cells
    }


def _attention(gap, layers, *, is_odd):
    """Two heads a layer, two positions and two spans, of which figures read one each."""
    arms, size = list(SIDES), (len(SIDES), layers, 2, 2, 2)
    arm, layer, head, position, span = np.indices(size).reshape(len(size), -1)
    level = np.array([0.25 if name == "base" else 0.4 + SIDES[name] * gap for name in arms])[arm]
    mean = level * 2 * (layer + 1) / (layers + 1) + 0.02 * (head == int(is_odd)) - 0.01
    words = {
        "arm": np.array(arms)[arm],
        "position": np.array(["prompt_end", "first_answer"])[position],
        "span": np.array(["subject", "relation"])[span],
    }
    numbers = {"layer": layer, "head": head, "mean": np.where((position == 0) & (span == 0), mean, 0.9), "n": 10}
    return columns.table(numbers | {name: word.tolist() for name, word in words.items()}, columns.ATTENTION)


def _predictions(name, gap, n_runs):
    """The gap falls from fifth to fifth, to nothing in the last."""
    gaps = np.array([gap * (N_FIFTHS - 1 - fifth) / 2 for fifth in range(N_FIFTHS)])
    rows = {
        "experiment": name,
        "seeds": n_runs,
        "result": ["a", *["d"] * (N_FIFTHS + 1)],
        "stratum": [None, None, *(f"fifth {fifth + 1}" for fifth in range(N_FIFTHS))],
        "measured": [gap, 0.0, *gaps],
        "low": [gap - 0.02, -0.1, *(gaps - 0.02)],
        "high": [gap + 0.02, 0.1, *(gaps + 0.02)],
        "unit": "base models",
        "note": "read by people alone",
    }
    return columns.table(rows, columns.PREDICTIONS)


LEVELS = {
    "tail": (8.0, 0.5),
    "background": (0.0, 1.0),
    "answers": (10.0, 100.0),
    "names": (0.0, 1.0),
    "relations": (0.0, 2.0),
    "facts_per_subject": (1.0, 4.0),
    "format": (0.0, 0.1),
}
"""Low and high."""
TRUE = {"tail": 0.08, "answers": -0.05}
"""What the high level of a factor does to the gap in accuracy; twice as much in retention, half in attention."""
FINE = {"tail": (8.0, 4.0, 2.0, 1.0, 0.5), "background": (0.0, 1.0, 3.0), "answers": (10.0, 30.0, 100.0)}
RECIPES = [("full", rate, epochs) for rate in (1e-4, 3e-4, 1e-3) for epochs in (3, 6)]
RECIPES += [("lora", rate, 6) for rate in (1e-3, 3e-3, 1e-2)]


def _write_screen(folder: Path, *, parts, with_toy: bool, n_models: int, true) -> Path:
    """Write the screen study's table: the toy's gaps are half the language model's, base models differ by 0.01."""
    rows = []
    for part, series, world, values, recipe in _worlds():
        flows = ("lm", "toy") if with_toy and part != "recipe" else ("lm",)
        for flow, model, seed in product(flows, range(n_models), range(2)):
            if part in parts and (flow == "lm" or seed == 0):
                known = {"part": part, "series": series, "world": world, "config_hash": "0" * 8, "flow": flow}
                known |= recipe | values | {"pretrain_seed": model, "seed": seed}
                rows += _screen_rows(known, _gap(values, true) + 0.01 * (model - (n_models - 1) / 2))
    path = folder / "empirical" / "screen" / "table.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=columns.SCREEN), path)
    return path


def _worlds():
    """Yield part, series, name, levels and recipe of every world."""
    recipe = {"method": "full", "learning_rate": None, "epochs": 6}
    for a, b, c, d in product((-1, 1), repeat=4):
        signs = (a, b, c, d, a * b * c, b * c * d, a * c * d)
        values = {name: ends[sign > 0] for (name, ends), sign in zip(LEVELS.items(), signs, strict=True)}
        yield "factorial", "", "screen-" + "".join("h" if sign > 0 else "l" for sign in signs), values, recipe
    ends = {name: {factor: pair[at] for factor, pair in LEVELS.items()} for at, name in enumerate(("closed", "open"))}
    for name, levels in FINE.items():
        for level in levels:
            yield "fine", name, f"screen-{name}-{level:g}", ends["closed"] | {name: level}, recipe
    for end, (method, rate, epochs) in product(ends, RECIPES):
        cooked = {"method": method, "learning_rate": rate, "epochs": epochs}
        yield "recipe", end, f"screen-{end}-{method}-{rate:g}-{epochs}-epochs", ends[end], cooked


def _gap(values, true):
    """A level between the low and the high one does half of what the high one does."""
    shares = {name: ends.index(values[name]) - 0.5 if values[name] in ends else 0.0 for name, ends in LEVELS.items()}
    return 0.1 + sum(effect * shares[name] for name, effect in true.items())


def _screen_rows(known, gap):
    is_toy = known["flow"] == "toy"
    rows = []
    for arm, side in (("base", 0.0), ("top", 0.5), ("random", 0.0), ("bottom", -0.5)):
        numbers = dict.fromkeys(columns.MEASURES, None) | {
            "accuracy": 0.4 + side * gap * (0.5 if is_toy else 1),
            "retention": None if is_toy else 0.5 + 2 * side * gap,
            "subject_attention": 0.5 + side * gap / 2,
        }
        rate = None if arm == "base" or is_toy else known["learning_rate"] or 3e-4
        rows.append(known | {"arm": arm, "n": 100, "learning_rate": rate} | numbers)
    return rows
