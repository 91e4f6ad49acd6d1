"""What `verify` says of a broken program: its rows and its bars, on smaller worlds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from benchmarks.mutations.apply import Mutation, broken
from core.errors import InputError
from theory import compare
from theory.compare import Row
from theory.experiments import PAPER
from theory.facts import FactsConfig
from theory.pipeline import Simulation
from theory.pretrain import PretrainConfig
from theory.verify import checks, reversal

WORLD = replace(PAPER, facts=FactsConfig(n_subjects=500), pretrain=PretrainConfig(steps=1000), n_records=2)
"""Half of `paper`, each fact drawn as often."""
N_WORLDS = 3
LEVELS, EXPONENTS = (1000, 2000, 4000, 8000), (1.0,)
"""Where the reversal is sought."""
ALONE = (1.0, 4000)
"""Where subjects' other answers are taken out: as many draws of a fact as in `reversal.ALONE`."""
AFTERWARDS = ("theory.law", "theory.measure", "theory.compare", "core.closed_form")
"""Modules that are read once worlds are simulated: what breaks them needs no worlds of its own."""
LAST = ("R1, force and parametrisations", "R8, reversal")
"""The checks that take longest."""


def noticed(mutation: Mutation) -> list[str]:
    """Return the rows of the first check that notices the error; none if all of `verify` does not."""
    simulations = None if not mutation.module.startswith(AFTERWARDS) else _sound()
    with broken(mutation):
        return _first(simulations)


def check() -> None:
    """Raise InputError if a row does not hold with no error in the program."""
    if rows := _first(_sound()):
        raise InputError(f"verify fails as it is: {rows[0]}.\nMend that first.")


@cache
def _sound() -> list[Simulation]:
    """Return the worlds of the program as it is."""
    return checks.simulate(WORLD, N_WORLDS)


def _first(simulations: list[Simulation] | None) -> list[str]:
    """Return what the first check with a row that does not hold says, or the error that it ends with."""
    try:
        worlds = simulations or checks.simulate(WORLD, N_WORLDS)
        for rows in _rows(worlds):
            if found := [_said(row) for row in rows if row["verdict"] in ("fails", "undecided")]:
                return found
    except Exception as error:  # whatever a wrong program may end with
        return [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]
    return []


def _rows(worlds: Sequence[Simulation]) -> Iterator[list[Row]]:
    yield compare.rows("verify", [checks.outcome(WORLD, world) for world in worlds], is_default_world=True)
    ordered: list[Callable[..., list[Row]]] = [check for name, check in checks.CHECKS.items() if name not in LAST]
    for check in [*ordered, *(checks.CHECKS[name] for name in LAST)]:
        given = reversal.LEVELS, reversal.EXPONENTS, reversal.ALONE
        reversal.LEVELS, reversal.EXPONENTS, reversal.ALONE = LEVELS, EXPONENTS, ALONE
        try:
            yield check(WORLD, worlds)
        finally:
            reversal.LEVELS, reversal.EXPONENTS, reversal.ALONE = given


def _said(row: Row) -> str:
    return f"{row['result']}, {row['arm']}: {row['note']}" if row.get("arm") else f"{row['result']}: {row['note']}"
