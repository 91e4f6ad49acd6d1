"""The former schema (1) of results, its names and what each is called now. Nothing else in the program knows them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core import runs

SCHEMA = 1
"""Schema of run directories."""
SWEEP_SCHEMA = 1
"""Schema of a sweep's design."""

FIELDS: dict[str, dict[str, str]] = {
    "theory": {
        "facts.table": "facts.path",
        "facts.subject_column": "facts.columns.subject",
        "facts.relation_column": "facts.columns.relation",
        "facts.answer_column": "facts.columns.answers",
        "facts.popularity_column": "facts.columns.popularity",
        "facts.relations_per_subject": "facts.facts_per_subject",
        "model.form": "model.parametrisation",
        "finetune.stop": "finetune.early_stopping",
        "finetune.kl": "finetune.kl_weight",
        "finetune.order": "finetune.curriculum",
        "split.development": "split.dev",
    },
    "deep": {
        "facts.table": "facts.path",
        "facts.subject_column": "facts.columns.subject",
        "facts.relation_column": "facts.columns.relation",
        "facts.answer_column": "facts.columns.answers",
        "facts.popularity_column": "facts.columns.popularity",
        "facts.relations_per_subject": "facts.facts_per_subject",
        "split.development": "split.dev",
        "width": "d_model",
        "hidden": "d_ff",
    },
    "empirical": {
        "world.statements": "world.paraphrases",
        "pretrain.hidden": "pretrain.d_model",
        "split.development": "split.dev",
    },
}
"""Config fields by dotted name, old to new, by kind of config; flags are named after them."""
VALUES: dict[str, dict[Any, Any]] = {
    "model.form": {"table": "factored"},
    "finetune.stop": {"end": False, "early": True},
}
"""Values of former fields that have another now."""
ADDED: dict[str, dict[str, Any]] = {
    "theory": {"facts.columns.question": None, "facts.columns.choices": None},
    "deep": {"facts.columns.question": None, "facts.columns.choices": None},
    "empirical": {},
}
"""Fields that were not there, with the value that means what happened then."""
COLUMNS = {
    "guessed": "unknown_accuracy",
    "majority_accuracy": "generic_accuracy",
    "majority_correct": "generic_correct",
    "subject_blindness": "swap_invariance",
}
"""Columns and metrics."""
CELLS: dict[str, dict[str, str]] = {
    "role": {"development": "dev"},
    "position": {"last": "prompt_end"},
    "result": {"guessed": "unknown", "blindness": "swap"},
    "part": {"screen": "factorial"},
}
"""Words in cells, by column."""
WORDS = {"window": "screen"}
"""Names of studies, which are words of a command too."""


_UNIT = re.compile(r"\((?:\d+ )?(base models|questions by (?:relation|subject))\)$")
_FIFTH = re.compile(r"accuracy gap, (fifth \d)\b")
_THIRDS = {
    "accuracy gap, best known third": "third 1",
    "accuracy gap, middle third": "third 2",
    "accuracy gap, least known third": "third 3",
}


def flags(kind: str) -> dict[str, str]:
    """Return the former flags and words of a command line, and what each is called now."""
    renamed = {f"--{_flag(old)}": f"--{_flag(new)}" for old, new in FIELDS[kind].items()}
    renamed |= {f"--no-{_flag(old)}": f"--no-{_flag(new)}" for old, new in FIELDS[kind].items()}
    return renamed | ({} if kind == "theory" else WORDS)


def config(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in the present names, its fields in their order."""
    kind = "deep" if "width" in old else "empirical" if "evaluate" in old else "theory"
    leaves = dict(_leaves(old))
    new: dict[str, Any] = {}
    for name, value in leaves.items():
        value = VALUES.get(name, {}).get(value, value) if not isinstance(value, list) else value
        _put(new, FIELDS[kind].get(name, name), value)
    for name, value in ADDED[kind].items():
        _put(new, name, value)
    return new


def report(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's report in the present names."""
    new = dict(old) | {"config": config(old["config"]), "experiment": study(old["experiment"])}
    if "metrics" in old:
        new["metrics"] = {arm: _renamed(metrics) for arm, metrics in old["metrics"].items()}
    if "choices" in old:
        renamed = {"development_accuracy": "dev_accuracy"}
        new["choices"] = {arm: _renamed(choice, renamed) for arm, choice in old["choices"].items()}
    if "split" in old:
        new["split"] = _renamed(old["split"], {"development": "dev"})
    return new


def study(name: str) -> str:
    """Return what a study, or a world of one, is called now."""
    return re.sub(r"^window(?=$|-)", "screen", name)


def table(old: pa.Table) -> pa.Table:
    """Return a table in the present names of columns and words in cells; the very one where nothing changes."""
    new = old.rename_columns([COLUMNS.get(name, name) for name in old.column_names])
    for name, words in CELLS.items():
        if name in new.column_names:
            new = _spelt(new, name, words)
    return old if new.equals(old) else new


def predictions(old: pa.Table) -> pa.Table:
    """Return what was compared with the theory, with what its notes say of stratum and unit in columns of their own."""
    new = table(old)
    new = _spelt(new, "experiment", {name: study(name) for name in set(new["experiment"].to_pylist())})
    strata, units = [], []
    for note, result, low in zip(*(new[name].to_pylist() for name in ("note", "result", "low")), strict=True):
        stratum, unit = stratum_and_unit(note, result)
        strata.append(stratum)
        units.append(None if low is None else unit)
    for name, values in {"stratum": strata, "unit": units}.items():
        new = new.append_column(name, pa.array(values, pa.string()).dictionary_encode())
    return new


def stratum_and_unit(note: str, result: str) -> tuple[str | None, str | None]:
    """Return `stratum` and `unit` of a former row of predictions.parquet.

    A language model's notes end with the unit in brackets; the theory's bear none, as worlds are its only unit. The
    unit is that of the interval, so that a row without one (`low` is null) has none, whatever this returns.

    Args:
        result: under its former name or today's.
    """
    fifth, unit = _FIFTH.match(note), _UNIT.search(note)
    stratum = (fifth[1] if fifth else _THIRDS.get(note)) if result == "d" else None
    return stratum, unit[1] if unit else "worlds"


def sweep(old: pa.Table) -> pa.Table:
    """Return a sweep's table, its swept fields and its configs in the present names."""
    new = old.rename_columns([FIELDS["theory"].get(name, name) for name in old.column_names])
    for name in set(old.column_names) & VALUES.keys():
        values = [VALUES[name].get(value, value) for value in old[name].to_pylist()]
        new = new.set_column(old.column_names.index(name), FIELDS["theory"][name], pa.array(values))
    if "config" in new.column_names:
        texts = set(new["config"].to_pylist())
        new = _spelt(new, "config", {text: _canonical(config(json.loads(text))) for text in texts})
    return new


def grid(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep's design in the present names."""
    new = dict(old) | {"schema": runs.SWEEP_SCHEMA}
    if "axes" in old:
        new["axes"] = {
            FIELDS["theory"].get(name, name): [VALUES.get(name, {}).get(level, level) for level in levels]
            for name, levels in old["axes"].items()
        }
    return new


def refuse_screen(path: Path) -> None:
    """Raise InputError for a table of the screen that is of the former schema; a missing or damaged one is not read."""
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return
    if is_screen(names):
        runs.check_schema(path, SCHEMA, runs.SCHEMA)


def is_screen(columns: list[str]) -> bool:
    """Return whether these are the columns of the former table of the screen."""
    return bool(set(columns) & COLUMNS.keys())


def screen(old: pa.Table, hashes: Mapping[str, str]) -> pa.Table:
    """Return the table of the screen in the present names.

    Args:
        hashes: Of configs, the former hash to the present one.
    """
    new = table(old)
    for name, change in {"world": study, "config_hash": lambda text: hashes.get(text, text)}.items():
        texts = set(new[name].to_pylist())
        new = _spelt(new, name, {text: change(text) for text in texts})
    return new.replace_schema_metadata(old.schema.metadata)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return a config's leaves by dotted name."""
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        place = f"{prefix}{name}"
        found += _leaves(value, f"{place}.") if isinstance(value, Mapping) else [(place, value)]
    return found


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    first, _, rest = name.partition(".")
    if rest:
        _put(tree.setdefault(first, {}), rest, value)
    else:
        tree[first] = value


def _renamed(entries: Mapping[str, Any], names: Mapping[str, str] = COLUMNS) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in entries.items()}


def _spelt(of: pa.Table, name: str, words: Mapping[str, str]) -> pa.Table:
    """Return the table with other words in one column, encoded as before."""
    place, kind = of.column_names.index(name), of.schema.field(name).type
    if pa.types.is_dictionary(kind):
        chunks = [
            pa.DictionaryArray.from_arrays(
                chunk.indices, pa.array([words.get(w, w) for w in chunk.dictionary.to_pylist()], kind.value_type)
            )
            for chunk in of[name].chunks
        ]
        return of.set_column(place, of.schema.field(name), pa.chunked_array(chunks, kind))
    spelt = pa.array([words.get(word, word) for word in of[name].to_pylist()], kind)
    return of.set_column(place, of.schema.field(name), spelt)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _flag(field: str) -> str:
    return field.replace("_", "-")
