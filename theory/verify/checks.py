"""Every result tested against simulation on fresh worlds: what needs more than a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from core.errors import InputError
from core.seeds import Cell
from theory import compare, measure, pipeline
from theory import config as configs
from theory.compare import Outcome, Row
from theory.config import Config
from theory.experiments import PAPER
from theory.law import theorem
from theory.pipeline import Simulation
from theory.verify import design, flows, judge, oracle, reversal, steps

FIRST_SEED = 1000
"""Fresh worlds: seeds that no run uses by default."""
N_WORLDS = 3
"""Worlds by default, enough to decide every row of the default settings."""
RULED = ("popular@0.5", "rarest@0.5", "best@0.5")
"""Arms beside the halves: R9's best facts, and others of as many that must not pass its bound."""

Check = Callable[[Config, Sequence[Simulation]], list[Row]]


def run(
    config: Config,
    n_seeds: int,
    progress: Callable[[str, int], None] = lambda doing, n: None,
    *,
    is_paper: bool | None = None,
) -> list[Row]:
    """Return the rows of every result, R1 to R9, of the claim, and of the experiment's own design.

    Args:
        progress: told which check is next, and how many more are done.
        is_paper: whether the world is `paper`, on which alone the claim and R6 are judged; None: if it is its config.

    Raises:
        InputError: settings that cannot be run, or that the results do not speak of.
    """
    configs.check(config)
    if config.finetune.prompt != "template":
        raise InputError("R1 to R9 are about prompts with a template.\nLeave --finetune.prompt at template.")
    progress("worlds", 0)
    simulations = simulate(config, n_seeds)
    is_paper = config == PAPER if is_paper is None else is_paper
    judged = compare.rows("verify", [outcome(config, world) for world in simulations], is_default_world=is_paper)
    for name, check in CHECKS.items():
        progress(name, 0)
        judged += [{"experiment": "verify", "seeds": n_seeds} | row for row in check(config, simulations)]
        progress(name, 1)
    for row in judged:
        row["statement"] = (theorem.STATEMENTS | theorem.BESIDE)[row["result"]]
    return sorted(judged, key=lambda row: row["result"])


def unsettled(rows: Sequence[Row]) -> list[str]:
    """Return what no row decides: results with an undecided row, and results without a verdict."""
    verdicts = {result: set[str]() for result in theorem.STATEMENTS | theorem.BESIDE}
    for row in rows:
        verdicts[row["result"]].add(row["verdict"])
    return [result for result, of in verdicts.items() if "undecided" in of or not of & {"holds", "fails"}]


def simulate(config: Config, n_seeds: int) -> list[Simulation]:
    """Return fresh worlds, pretrained and finetuned, on R9's arms too."""
    config = replace(config, more_arms=tuple(dict.fromkeys((*config.more_arms, *RULED))))
    cells = [Cell(k, k, k) for k in range(FIRST_SEED, FIRST_SEED + n_seeds)]
    return [world for group in pipeline.groups(config, cells) for world in pipeline.simulate(config, group)]


def outcome(config: Config, simulation: Simulation) -> Outcome:
    """Return what a run directory of this simulation would tell `compare`."""
    metrics, facts, trace = measure.run(config, simulation)
    by_fact, by_step = ({str(part["arm"]): _arrays(part) for part in parts} for parts in (facts, trace))
    return Outcome(simulation.cell.pretrain, configs.to_json(config), by_fact, by_step, metrics)


def force_identity(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R1 against the dense model's derivative, and the two parametrisations against each other."""
    force = max(oracle.force_error(config.model, seed=world.cell.pretrain) for world in simulations)
    forms = max(oracle.parametrisations_error(config, world.cell) for world in simulations)
    return [
        judge.bounded("R1", force, 1e-10, "max |ΔG| / max |G| against autodiff of the dense model", "another force"),
        judge.bounded("R1", forms, 1e-9, "factored against dense model over a whole run: max |Δ|", "another weight"),
    ]


CHECKS: dict[str, Check] = {
    "R1, force and parametrisations": force_identity,
    "R2, own steps": steps.own,
    "R3, transfer": steps.transfer,
    "R5, reduced flow": flows.reduced_path,
    "R5, mean force": flows.mean_force,
    "R5, held-out terms": flows.held_out_terms,
    "R5, batched": flows.batched,
    "R6′, from exposure": flows.from_exposure,
    "R8, reversal": reversal.boundary,
    "arms": design.arms,
    "measurements": design.measurements,
    "ties": design.ties,
}
"""What is computed for `verify` alone; the rest is decided by any finished run (`compare`)."""


def _arrays(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(column) for name, column in columns.items() if name != "arm"}
