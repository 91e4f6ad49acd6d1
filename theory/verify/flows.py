"""R5: the flow of the shared logits, its terms for held-out prompts, and its batched form against the reference."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from core import split
from theory import config as configs
from theory import evaluate
from theory.compare import Row
from theory.config import Config
from theory.engine.batched import stack
from theory.law import flow, forecast, predict
from theory.model import factored, traced
from theory.model.config import ModelConfig
from theory.pipeline import Simulation
from theory.verify import judge

STEP = 0.4
"""Last time step of the simulated reduced flow. Steps grow evenly from 0, as the path slows down."""
SHARES = (0.3, 0.5, 0.7, 0.9)
"""Shares at which the mean force is tested, besides the arm's own at the end."""


def reduced_path(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R5: a simulation that moves the shared logits alone, in small full-batch steps, follows the reduced flow.

    From the base's uniform attention, and on from where the other half's finetuning ended.
    """
    horizon = config.finetune.learning_rate * config.finetune.steps
    rows, path = [], _path(config.model)
    for arm, place in (("top", "base"), ("bottom", "base"), ("top", "bottom")):
        worst = max(_path_error(world, arm, place, horizon, path) for world in simulations)
        start = "" if place == "base" else f", from where {place} ended"
        note = f"max |Δt| on the path to τ = {horizon:g}{start}, in full-batch steps of up to {STEP}"
        rows.append(judge.bounded("R5", worst, 0.01, note, "a share further from the flow's anywhere") | {"arm": arm})
    return rows


def mean_force(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R5: with the template suppressed, a full-batch step moves the log odds of t by twice the arm's mean force."""
    rows, moved = [], _odds_change(config.model)
    for arm in ("top", "bottom"):
        error = 0.0
        for world in simulations:
            base, store, chosen = world.weights["base"], world.store, world.split.arms[arm]
            points = np.array([*SHARES, float(world.traces[arm].measured.subject_share[-1])])
            with jax.enable_x64(True):
                (values, logits), batch = factored.of_weights(base), judge.facts(world, chosen)
                change = np.array([moved(values, logits, batch, t) for t in points])
            force = flow.mean_force(evaluate.token_values(base, store, chosen), store.answer[chosen], points)
            error = max(error, float(np.abs(2 * force - change).max() / np.abs(change).max()))
        note = f"mean force at t = {', '.join(map(str, SHARES))} and the arm's own: max |Δ| / max against a step"
        rows.append(judge.bounded("R5", error, 1e-9, note, "another mean force at any share") | {"arm": arm})
    return rows


def held_out_terms(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R5: each term of the held-out flow against one full-batch step at the world's own rates."""
    names = ("ρ E[G_s]", "ρ E[G_r] + (1 − ρ) E[1{r} G_r]", "E[G_q]")
    constants, errors, time = traced.uncounted(config.model), np.zeros(3), 1e-5
    for world in simulations:
        base, store, chosen = world.weights["base"], world.store, world.split.arms["bottom"]
        held_out = np.flatnonzero(world.split.role == split.HELD_OUT)
        with jax.enable_x64(True):
            (values, logits), batch = factored.of_weights(base), judge.facts(world, chosen)
            _, after, _ = factored.question_step(values, logits, batch, jnp.asarray(1.0), None, constants, "template")
        # A held-out subject has no logit of its own that moves.
        subject = float(after.shared[0] + after.subject[store.subject[held_out[0]]])
        relations = np.unique(store.relation[chosen])
        measured = [np.full(len(relations), subject), np.asarray(after.shared[1] + after.relation)[relations]]
        measured.append(np.full(len(relations), float(after.template)))
        path = flow.held_out_flow(
            evaluate.token_values(base, store, chosen),
            store.answer[chosen],
            store.relation[chosen],
            np.array([time]),
            rho=config.model.shared_share,
            rtol=1e-10,
        )
        for token, found in enumerate(measured):
            error = np.abs(path.logits[0, :, token] / time - found).max() / np.abs(found).max()
            errors[token] = max(errors[token], error)
    texts = [f"speed of held-out logits, {name}: max |Δ| / max against a step" for name in names]
    rows = [judge.bounded("R5", error, 1e-2, note, "another term") for error, note in zip(errors, texts, strict=True)]
    return [row | {"arm": "bottom"} for row in rows]


def batched(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R5: the forecast of many arms at once, which sweeps use, against the reference flow of each."""
    arms, horizon = ("top", "bottom"), config.finetune.learning_rate * config.finetune.steps
    times = horizon * np.array([0.05, 1.0])
    found = np.stack([_batched(config, simulations, arms, time) for time in times], axis=2)
    reference = np.array([[_reference(config, world, arm, times) for arm in arms] for world in simulations])
    error = float(np.abs(found - reference).max())
    note = f"batched forecast against the reference flow, at τ = {times[0]:g} and {times[1]:g}: max |Δt|"
    return [judge.bounded("R5", error, 1e-3, note, "a share further off") | {"arm": "top, bottom"}]


def from_exposure(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R6′ and R5: where finetuning takes each arm, from the facts' exposure alone, without any training; no verdict."""
    if not forecast.applies(config) or config.model.parametrisation == "dense":
        return []
    arms, horizon = ("top", "bottom"), config.finetune.learning_rate * config.finetune.steps
    stored = configs.to_json(config)
    foretold = [
        replace(world, weights={**world.weights, "base": predict.from_exposure(world.store, stored)})
        for world in simulations
    ]
    predicted = _batched(config, foretold, arms, horizon)
    ends = [[float(world.traces[arm].measured.subject_share[-1]) for arm in arms] for world in simulations]
    measured = np.array(ends)
    n_right = int((np.sign(predicted[:, 0] - predicted[:, 1]) == np.sign(measured[:, 0] - measured[:, 1])).sum())
    order = f"the order of the arms right in {n_right} of {len(simulations)} worlds"
    row: Row = {"result": "R6", "arm": "top, bottom", "verdict": "reported", "unit": "worlds"}
    row |= {"predicted": float(predicted.mean()), "measured": float(measured.mean())}
    row["error"] = float(np.abs(predicted - measured).mean())
    row["note"] = f"R5's share from exposure alone, nothing trained: mean |Δt|; {order}"
    return [row]


def _path(model: ModelConfig) -> Callable[..., Float[Array, " step"]]:
    """Return what simulates the shared logits' log odds of t along full-batch steps."""
    # With all of the embedding shared, the factored model's rates are R5's: 1 on the shared logits, 0 on a token's own.
    shared = traced.uncounted(replace(model, shared_share=1.0))

    @jax.jit
    def path(values: factored.Values, start: factored.Logits, batch: factored.Facts, rates) -> Array:
        def step(logits, rate):
            _, logits, _ = factored.question_step(values, logits, batch, rate, None, shared, "template")
            return logits, logits.shared[0] - logits.shared[1]

        return jax.lax.scan(step, start, rates)[1]

    return path


def _path_error(
    simulation: Simulation, arm: str, place: str, horizon: float, path: Callable[..., Float[Array, " step"]]
) -> float:
    """Return the largest distance between the simulated share and the reduced flow's after any step of the path."""
    times = horizon * np.linspace(0, 1, 1 + max(300, round(2 * horizon / STEP))) ** 2
    base, store, tuned = simulation.weights["base"], simulation.store, simulation.weights[place]
    rows = predict.spread(simulation.split.arms[arm], base)
    held_out = store.subject[np.flatnonzero(simulation.split.role == split.HELD_OUT)[0]]
    start = (float(tuned.subject_logit[held_out]), float(tuned.relation_logit.mean()), float(tuned.template_logit))
    with jax.enable_x64(True):
        values, logits = factored.of_weights(base)
        logits = logits._replace(shared=jnp.asarray(start[:2]), template=jnp.asarray(start[2]))
        odds = np.asarray(path(values, logits, judge.facts(simulation, rows), jnp.asarray(np.diff(times))))
    reduced = flow.reduced_flow(evaluate.token_values(base, store, rows), store.answer[rows], times, start=start)
    return float(np.abs(special.expit(odds) - reduced.share[1:]).max())


def _odds_change(model: ModelConfig) -> Callable[..., float]:
    """Return what measures the change of t's log odds in a full-batch step of rate 1, the template suppressed."""
    shared = traced.uncounted(replace(model, shared_share=1.0))

    @jax.jit
    def change(values: factored.Values, logits: factored.Logits, batch: factored.Facts, t) -> Array:
        odds = jnp.log(t) - jnp.log1p(-t)
        start = logits._replace(shared=jnp.stack([odds, 0.0 * odds]), template=jnp.asarray(-jnp.inf))
        _, after, _ = factored.question_step(values, start, batch, jnp.asarray(1.0), None, shared, "template")
        return after.shared[0] - after.shared[1] - odds

    return lambda *arguments: float(change(*arguments))


def _batched(
    config: Config, simulations: Sequence[Simulation], arms: Sequence[str], horizon: float
) -> Float[np.ndarray, "world arm"]:
    """Return the batched forecast of the arms' shares, one output standing for all filler as in a sweep."""
    stacked, rows = [], [[simulation.split.arms[arm] for arm in arms] for simulation in simulations]
    for simulation in simulations:
        base, store = simulation.weights["base"], simulation.store
        constants = traced.of(config.model, store.n_answers, config.precision)
        n_outputs = len(base.template_value) if constants.multiplicity is None else len(constants.multiplicity)
        subject, relation, template = (jnp.asarray(part[..., :n_outputs]) for part in base[:3])
        values = factored.Values(subject, relation, template, jnp.zeros((2, n_outputs), template.dtype))
        stacked.append((values, factored.Facts(store.subject, store.relation, store.answer), constants))
    sizes = np.array([[len(arm) for arm in of_world] for of_world in rows])
    padded = np.zeros((*sizes.shape, sizes.max()), np.int32)
    for place, size in np.ndenumerate(sizes):
        padded[place][:size] = rows[place[0]][place[1]]
    with jax.enable_x64(config.precision == "float64"):
        times = np.full(len(simulations), horizon)
        values, facts, constants = stack(stacked)
        return forecast.integrate(values, facts, constants, padded, sizes, horizon=times).subject_share


def _reference(
    config: Config, simulation: Simulation, arm: str, times: Float[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    """Return the reference flow's shares of one arm."""
    base, store, rows = simulation.weights["base"], simulation.store, simulation.split.arms[arm]
    return predict.arm_flow(base, store, rows, times, shared_share=config.model.shared_share).share
