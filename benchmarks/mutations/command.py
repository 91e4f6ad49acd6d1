"""`python -m benchmarks mutations`: breaks the program in one place after another, and tells what notices."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.table import Table

import core
import theory
from benchmarks.mutations import catalogue, tested, verified
from benchmarks.mutations.apply import Mutation
from core import provenance
from core.console import OUTPUT, progress
from core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MAX_SURVIVORS = 5
"""So many errors, at most, may every row of `verify` leave unnoticed."""


@dataclass(frozen=True)
class Settings:
    """Break one formula or stage at a time, and print which row of `verify` and which test notices."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Errors of the catalogue, by name; none for all."""
    out: Path = Path("runs/mutations.json")
    """What each was noticed by. What stands there of the same program is not asked again."""
    asked: tuple[Literal["verify", "tests"], ...] = ("verify", "tests")
    """Who is asked: verify, tests or both."""


def run(settings: Settings) -> int:
    """Ask who has not been asked, print the table, and return 1 if too much goes unnoticed."""
    if unknown := sorted(set(settings.names) - set(catalogue.BY_NAME)):
        raise InputError(f"no such error: {unknown[0]!r}.\nThe catalogue: {', '.join(catalogue.BY_NAME)}.")
    chosen = [catalogue.BY_NAME[name] for name in settings.names] or list(catalogue.ALL)
    code, found = _read(settings.out)
    left = {who: [each for each in chosen if who not in found.get(each.name, {})] for who in settings.asked}
    with progress("mutations", sum(map(len, left.values()))) as tell:
        for who in settings.asked:
            tell(f"asking {who}", 0)
            for name, answer in _answers(who, left[who]) if left[who] else ():
                found.setdefault(name, {})[who] = answer
                _write(settings.out, code, found)
                tell(f"{who}: {name}", 1)
    return report([each.name for each in chosen], found)


def _answers(who: str, left: Sequence[Mutation]) -> Iterator[tuple[str, list[str]]]:
    """Return what notices each error, one after another.

    Raises:
        InputError: the tests could not be run.
    """
    if who == "verify":
        verified.check()
        for each in left:
            yield each.name, verified.noticed(each)
        return
    command = [sys.executable, "-m", tested.__name__, *(each.name for each in left)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        for line in worker.stdout:
            yield tuple(json.loads(line))
    if worker.returncode:
        raise InputError(
            "the tests could not be run: the reason stands above.\nMend that, and go on with this command."
        )


def report(names: Sequence[str], found: dict[str, dict[str, Any]]) -> int:
    """Print who noticed what, and return 1 where too little was noticed."""
    table = Table("error", "row of verify", "test", title=f"{len(names)} deliberate errors", show_lines=True)
    for name in names:
        table.add_row(name, *("\n".join(_cell(found[name], who)) for who in ("verify", "tests")))
    OUTPUT.print(table)
    unseen = {who: [name for name in names if found[name].get(who) == []] for who in ("verify", "tests")}
    both = sorted(set(unseen["verify"]) & set(unseen["tests"]))
    for who, of in unseen.items():
        n_asked = sum(who in found[name] for name in names)
        OUTPUT.print(f"{who}: {n_asked - len(of)} of {n_asked} noticed; not {', '.join(of) or 'one missed'}.")
    OUTPUT.print(f"Noticed by neither: {', '.join(both) or 'none'}.")
    return int(bool(both) or len(unseen["verify"]) > MAX_SURVIVORS)


def _cell(of: dict[str, Any], who: str) -> list[str]:
    """Return the first thing that noticed, and how many more there were."""
    if who not in of:
        return ["not asked"]
    first, *more = of[who] or ["–"]
    return [first, f"and {len(more)} more"] if more else [first]


def _read(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the program's hash, and what was noticed of this program so far."""
    packages = [Path(str(package.__file__)).parent for package in (core, theory)]
    code = provenance.code_hash(*packages, Path(__file__).parent)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return code, stored["found"] if stored.get("code") == code else {}


def _write(path: Path, code: str, found: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(
        json.dumps({"code": code, "found": found}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    partial.replace(path)
