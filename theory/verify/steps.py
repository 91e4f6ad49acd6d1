"""R2 and R3: what one step does to attention, a fact's own and that of facts that it never saw."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core import split
from theory import attention, evaluate, measure
from theory.compare import Row
from theory.config import Config
from theory.law import theorem
from theory.model import factored, traced
from theory.model.config import ModelConfig, Weights
from theory.pipeline import Simulation
from theory.verify import judge

RATES = (1e-4, 1e-5)
"""R3: at larger ones the second order hides a small error of the first."""
DRAWN = "base, attention logits drawn at random"
"""Where nothing cancels: at the base all attentions are equal, and after finetuning the template has next to none."""


def own(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R2: one step on each fact alone moves its share by its share force, up exactly where salience exceeds S*."""
    rows, moved = [], _own_change(config.model)
    for place in ("base", "bottom", DRAWN):
        n_wrong, n, error = 0, 0, 0.0
        for simulation in simulations:
            weights, store = _weights(simulation, place), simulation.store
            chosen = np.flatnonzero(~store.is_background)
            change = moved(simulation, weights, chosen)
            force = np.empty(len(chosen))
            for part in evaluate.chunks(np.arange(len(chosen)), 3 * len(weights.template_value)):
                answer = store.answer[chosen[part]]
                read = evaluate.read(weights, store, chosen[part])
                columns = measure.share_columns(*read, answer)
                is_above = weights.subject_values[store.subject[chosen[part]], answer] > columns["salience_threshold"]
                n_wrong += int(np.sum(is_above != (change[part] > 0)))
                force[part] = columns["share_force"]
            n, error = n + len(chosen), max(error, float(np.abs(force - change).max() / np.abs(change).max()))
        arm, where = _named(place)
        note = f"facts of {n:,} whose own step moves their share against S*{where}"
        rows.append(judge.bounded("R2", n_wrong, 0, note, "one fact that moves the other way") | arm)
        note = f"column share_force against a step: max |ΔH| / max |H|{where}"
        rows.append(judge.bounded("R2", error, 1e-9, note, "another force on any fact") | arm)
    return rows


def transfer(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """R3: the error of held-out attention after one full-batch step falls with the square of the rate."""
    rows, measured = [], _step(config.model)
    for place, arm in (("base", "whole"), ("bottom", "top")):
        errors = np.array([_errors(world, place, arm, config.model, measured) for world in simulations])
        fall, relative = float((errors[:, 0, 0] / errors[:, 1, 0]).min()), float(errors[:, 1, 1].max())
        where = "" if place == "base" else f", from where {place} ended"
        note = f"fall of the largest error from rate {RATES[0]:g} to {RATES[1]:g}{where}"
        row = {"result": "R3", "arm": arm, "predicted": 100.0, "measured": fall, "tolerance": 50.0, "note": note}
        row |= {
            "verdict": "holds" if fall >= 50 else "fails",
            "refuted_by": "a fall below 50: an error of first order",
        }
        note = f"held-out attention after a step at {RATES[1]:g}: max |error| / max |change|{where}"
        rows += [row, judge.bounded("R3", relative, 1e-3, note, "another change to first order") | {"arm": arm}]
    return rows


def _named(place: str) -> tuple[dict[str, str], str]:
    """Return the arm of a place, and what its rows say of it."""
    return {"arm": "base" if place == DRAWN else place}, ", attention logits drawn" if place == DRAWN else ""


def _weights(simulation: Simulation, place: str) -> Weights:
    """Return the model of that name; of `DRAWN` with logits that differ between all tokens."""
    if place != DRAWN:
        return simulation.weights[place]
    base, rng = simulation.weights["base"], np.random.default_rng(simulation.cell.pretrain)
    logits = (rng.standard_normal(part.shape[:1] if part.ndim else ()) for part in base[3:])
    return Weights(*base[:3], *map(np.asarray, logits))


def _own_change(model: ModelConfig) -> Callable[[Simulation, Weights, np.ndarray], Float[np.ndarray, " fact"]]:
    """Return what measures how each fact's log share odds change in one simulated step, of rate 1, on it alone."""
    constants = traced.uncounted(model)

    def change(values: factored.Values, logits: factored.Logits, fact: factored.Facts) -> jax.Array:
        single = jax.tree.map(lambda ids: ids[None], fact)
        _, after, _ = factored.question_step(values, logits, single, jnp.asarray(1.0), None, constants, "template")
        before, now = (jnp.log(factored.forward(values, at, single, constants)[0][:, 0]) for at in (logits, after))
        return (now[0] - now[1]) - (before[0] - before[1])

    @jax.jit
    def every(values: factored.Values, logits: factored.Logits, facts: factored.Facts) -> jax.Array:
        return jax.lax.map(lambda fact: change(values, logits, fact), facts, batch_size=64)

    def run(simulation: Simulation, weights: Weights, rows: np.ndarray) -> Float[np.ndarray, " fact"]:
        with jax.enable_x64(True):
            return np.asarray(every(*factored.of_weights(weights), judge.facts(simulation, rows)))

    return run


def _step(model: ModelConfig) -> Callable[..., jax.Array]:
    """Return what measures some facts' attention after one full-batch step on others."""
    constants = traced.uncounted(model)

    @jax.jit
    def attend(values, logits, batch: factored.Facts, asked: factored.Facts, rate) -> jax.Array:
        _, after, _ = factored.question_step(values, logits, batch, rate, None, constants, "template")
        return factored.forward(values, after, asked, constants)[0].T

    return attend


def _errors(
    simulation: Simulation, place: str, arm: str, model: ModelConfig, measured: Callable[..., jax.Array]
) -> list[tuple[float, float]]:
    """Return R3's largest error on held-out attention at each of `RATES`: absolute, and relative to the change."""
    weights, store = simulation.weights[place], simulation.store
    train, held_out = simulation.split.arms[arm], np.flatnonzero(simulation.split.role == split.HELD_OUT)
    before = attention.measure(weights, store.subject[held_out], store.relation[held_out])
    parts = evaluate.chunks(train, 3 * len(weights.template_value))
    force = np.concatenate([judge.force(weights, store, part) for part in parts])
    relations, errors = (store.relation[train], store.relation[held_out]), []
    for rate in RATES:
        with jax.enable_x64(True):
            facts = judge.facts(simulation, train), judge.facts(simulation, held_out)
            change = np.asarray(measured(*factored.of_weights(weights), *facts, rate)) - before
        predicted = theorem.transfer(force, relations[0], before, relations[1], rho=model.shared_share, rate=rate)
        error = float(np.abs(predicted - change).max())
        errors.append((error, error / float(np.abs(change).max())))
    return errors
