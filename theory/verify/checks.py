"""Every result tested against simulation on fresh worlds: what needs more than a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from core import split
from core.errors import InputError
from core.facts.store import FactStore
from core.seeds import Cell
from theory import attention, compare, evaluate, measure, pipeline
from theory import config as configs
from theory.compare import Outcome, Row
from theory.config import Config
from theory.experiments import PAPER
from theory.law import flow, predict, theorem
from theory.model import factored, traced
from theory.model.config import ModelConfig, Weights
from theory.pipeline import Simulation
from theory.verify import oracle, reversal

FIRST_SEED = 1000
"""Fresh worlds: seeds that no run uses by default."""
STEP = 0.4
"""R5: last time step of the simulated reduced flow. Steps grow evenly from 0, as the path slows down."""

Check = Callable[[Config, Sequence[Simulation]], list[Row]]


def run(config: Config, n_seeds: int, progress: Callable[[str, int], None] = lambda doing, n: None) -> list[Row]:
    """Return the rows of every result, R1 to R8, in order.

    Args:
        progress: told which check is next, and how many more are done.

    Raises:
        InputError: settings that cannot be run, or that the results do not speak of.
    """
    configs.check(config)
    if config.finetune.prompt != "template":
        raise InputError("R1 to R8 are about prompts with a template.\nLeave --finetune.prompt at template.")
    progress("worlds", 0)
    simulations = simulate(config, n_seeds)
    judged = compare.rows(
        "verify", [outcome(config, simulation) for simulation in simulations], is_default_world=config == PAPER
    )
    for name, check in CHECKS.items():
        progress(name, 0)
        judged += [{"experiment": "verify", "seeds": n_seeds} | row for row in check(config, simulations)]
        progress(name, 1)
    for row in judged:
        row["statement"] = theorem.STATEMENTS[row["result"]]
    return sorted(judged, key=lambda row: row["result"])


def simulate(config: Config, n_seeds: int) -> list[Simulation]:
    """Return fresh worlds, pretrained and finetuned."""
    cells = [Cell(k, k, k) for k in range(FIRST_SEED, FIRST_SEED + n_seeds)]
    return [world for group in pipeline.groups(config, cells) for world in pipeline.simulate(config, group)]


def outcome(config: Config, simulation: Simulation) -> Outcome:
    """Return what a run directory of this simulation would tell `compare`."""
    metrics, facts, trace = measure.run(config, simulation)
    by_arm = ({str(part["arm"]): _arrays(part) for part in parts} for parts in (facts, trace))
    return Outcome(simulation.cell.pretrain, configs.to_json(config), *by_arm, metrics)


def force_identity(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R1 against the dense model's derivative, and the two parametrisations against each other."""
    force = max(oracle.force_error(config.model, seed=world.cell.pretrain) for world in simulations)
    forms = max(oracle.parametrisations_error(config, world.cell) for world in simulations)
    return [
        _bounded("R1", force, 1e-10, "max |ΔG| / max |G| against autodiff of the dense model, float64"),
        _bounded("R1", forms, 1e-9, "factored against dense model over a whole run, float64: max difference"),
    ]


def own_step(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R2: one small step on each fact alone moves its share up exactly where its salience exceeds the threshold."""
    n_wrong, n = 0, 0
    for simulation in simulations:
        base, store = simulation.weights["base"], simulation.store
        rows = np.flatnonzero(~store.is_background)
        is_moved_up = _share_change(simulation, rows, config.model) > 0
        for part in evaluate.chunks(np.arange(len(rows)), 3 * len(base.template_value)):
            subject, relation, answer = store.subject[rows[part]], store.relation[rows[part]], store.answer[rows[part]]
            values = evaluate.token_values(base, store, rows[part])
            threshold = theorem.salience_threshold(attention.measure(base, subject, relation), values, answer)
            n_wrong += int(np.sum((base.subject_values[subject, answer] > threshold) != is_moved_up[part]))
        n += len(rows)
    return [_bounded("R2", n_wrong, 0, f"facts of {n:,} whose share moved against the prediction in their own step")]


def _share_change(simulation: Simulation, rows: np.ndarray, model: ModelConfig) -> Float[np.ndarray, " fact"]:
    """Return how each fact's log share odds change in one simulated step on that fact alone."""
    constants = traced.uncounted(model)
    with jax.enable_x64(True):
        (values, logits), facts = _base(simulation)

        def change(fact: factored.Facts) -> Array:
            single = jax.tree.map(lambda ids: ids[None], fact)
            _, after, _ = factored.question_step(values, logits, single, jnp.asarray(1e-3), None, constants, "template")
            before, now = (
                jnp.log(factored.forward(values, state, single, constants)[0][:, 0]) for state in (logits, after)
            )
            return (now[0] - now[1]) - (before[0] - before[1])

        return np.asarray(jax.jit(lambda chosen: jax.lax.map(change, chosen, batch_size=64))(facts.take(rows)))


def first_step(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R3: the error of held-out attention after one full-batch step falls with the square of the rate."""
    errors = np.array([[_step_error(world, config.model, rate) for rate in (1e-2, 1e-3)] for world in simulations])
    worst = float((errors[:, 0, 0] / errors[:, 1, 0]).min())
    note = f"fall of the largest error at a tenth of the rate (at least 50); relative error {errors[:, 1, 1].max():.0e}"
    row = {"result": "R3", "arm": "whole", "predicted": 100.0, "measured": worst, "tolerance": 50.0, "note": note}
    return [row | {"verdict": "holds" if worst >= 50 else "fails"}]


def _step_error(simulation: Simulation, model: ModelConfig, rate: float) -> tuple[float, float]:
    """Return the largest error of R3 on held-out attention at this rate: absolute, and relative to the change."""
    base, store = simulation.weights["base"], simulation.store
    train, held_out = (np.flatnonzero(simulation.split.role == role) for role in (split.TRAIN, split.HELD_OUT))
    before = attention.measure(base, store.subject[held_out], store.relation[held_out])
    with jax.enable_x64(True):
        (values, logits), facts = _base(simulation)
        batch, constants = facts.take(train), traced.uncounted(model)
        _, after, _ = factored.question_step(values, logits, batch, jnp.asarray(rate), None, constants, "template")
        change = np.asarray(factored.forward(values, after, facts.take(held_out), constants)[0]).T - before
    force = np.concatenate([_force(base, store, part) for part in evaluate.chunks(train, 3 * len(base.template_value))])
    relations = store.relation[train], store.relation[held_out]
    predicted = theorem.transfer(force, relations[0], before, relations[1], rho=model.shared_share, rate=rate)
    error = float(np.abs(predicted - change).max())
    return error, error / float(np.abs(change).max())


def reduced_path(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R5: a simulation that moves the shared logits alone, in small full-batch steps, follows the reduced flow."""
    horizon = config.finetune.learning_rate * config.finetune.steps
    note = f"max |Δt| on the path to τ = {horizon:g}, simulated in full-batch steps of up to {STEP}"
    worst = {
        arm: max(_path_error(world, config.model, world.split.arms[arm], horizon) for world in simulations)
        for arm in ("top", "bottom")
    }
    return [_bounded("R5", error, 0.01, note) | {"arm": arm} for arm, error in worst.items()]


def _path_error(simulation: Simulation, model: ModelConfig, rows: np.ndarray, horizon: float) -> float:
    """Return the largest distance between the simulated share and the reduced flow's after any step of the path."""
    times = horizon * np.linspace(0, 1, 1 + max(300, round(2 * horizon / STEP))) ** 2
    base, store = simulation.weights["base"], simulation.store
    rows = predict.spread(rows, base)
    # With all of the embedding shared, the factored model's rates are R5's: 1 on the shared logits, 0 on a token's own.
    shared = traced.uncounted(replace(model, shared_share=1.0))
    with jax.enable_x64(True):
        (values, logits), facts = _base(simulation)
        batch = facts.take(rows)

        def step(logits: factored.Logits, rate: Float[Array, ""]) -> tuple[factored.Logits, Array]:
            _, logits, _ = factored.question_step(values, logits, batch, rate, None, shared, "template")
            return logits, logits.shared[0] - logits.shared[1]

        _, odds = jax.jit(lambda start, rates: jax.lax.scan(step, start, rates))(logits, jnp.asarray(np.diff(times)))
    path = flow.reduced_flow(evaluate.token_values(base, store, rows), store.answer[rows], times)
    return float(np.abs(special.expit(np.asarray(odds)) - path.share[1:]).max())


CHECKS: dict[str, Check] = {
    "R1, force and parametrisations": force_identity,
    "R2, own steps": own_step,
    "R3, transfer": first_step,
    "R5, reduced flow": reduced_path,
    "R8, reversal": reversal.boundary,
}
"""What is simulated for `verify` alone; R4 to R7 are decided by any finished run (`compare`)."""


def _base(simulation: Simulation) -> tuple[tuple[factored.Values, factored.Logits], factored.Facts]:
    """Return a world's base as a factored model, ready to be finetuned, and its facts; to be called under x64."""
    base, store = simulation.weights["base"], simulation.store
    subject, relation, template = (jnp.asarray(values, jnp.float64) for values in base[:3])
    values = factored.Values(subject, relation, template, jnp.zeros((2, len(template))))
    facts = factored.Facts(*(jnp.asarray(ids) for ids in (store.subject, store.relation, store.answer)))
    return (values, factored.initial_logits(values, "template")), facts


def _force(base: Weights, store: FactStore, rows: np.ndarray) -> Float[np.ndarray, "fact token"]:
    """Return R1's force of each fact under the base model."""
    values = evaluate.token_values(base, store, rows)
    attended = attention.measure(base, store.subject[rows], store.relation[rows])
    return theorem.force(attended, values, theorem.probability(attended, values), store.answer[rows])


def _arrays(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(column) for name, column in columns.items() if name != "arm"}


def _bounded(result: str, error: float | int, tolerance: float | int, note: str) -> Row:
    """Return the row of a result whose error must not exceed its tolerance."""
    verdict = "holds" if error <= tolerance else "fails"
    return {"result": result, "error": float(error), "tolerance": float(tolerance), "note": note, "verdict": verdict}
