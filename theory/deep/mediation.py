"""What of the gap between two arms' networks moves with activations, or weights, that one is given of the other.

Names are those of the language model's interventions, so that both stand in one table.
"""

from functools import lru_cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, PyTree

from core import shares, split
from core.columns import Columns
from core.shares import DONOR, PATCHES, RECEIVER, Outcome
from theory import evaluate
from theory.deep import measure
from theory.deep.config import DeepConfig, Sizes, sizes
from theory.deep.network import RELATION, TEMPLATE, Hook, read
from theory.deep.pipeline import DeepRun
from theory.mediation import PAIRS

PLACES = {"subject": slice(None, RELATION), "subject_last": RELATION - 1, "end": TEMPLATE, "all": slice(None)}
"""Where the tokens of these names stand in the prompt."""
PARTS = {
    "query_key": ("query", "key"),
    "value_output": ("value", "mix"),
    "mlp": ("up", "down"),
    "norms": ("attention_norm", "mlp_norm", "norm"),
    "embeddings": ("token", "position", "readout"),
}
"""The parts of a network, and the modules of each."""
GRAFTS = (*PARTS, "query_key+value_output", "value_output+mlp", "query_key+value_output+mlp+norms")
"""Weights that the receiver gets; a plus joins parts."""


def tables(simulated: DeepRun) -> list[Columns]:
    """Return what moves in the answers to held-out questions, a table for each of `PAIRS`."""
    store, rows = simulated.store, np.flatnonzero(simulated.split.role == split.HELD_OUT)
    made = []
    for receiver, donor in PAIRS:
        own, given = simulated.parameters[receiver], simulated.parameters[donor]
        found = {RECEIVER: outcome(simulated, own, rows), DONOR: outcome(simulated, given, rows)}
        found |= {name: outcome(simulated, own, rows, donor=given, patch=name) for name in PATCHES}
        found |= {name: outcome(simulated, grafted(own, given, name.split("+")), rows) for name in GRAFTS}
        columns = shares.table(found, store.subject[rows], seed=simulated.seed)
        made.append({"receiver": receiver, "donor": donor, **columns})
    return made


def outcome(
    simulated: DeepRun,
    parameters: PyTree,
    rows: np.ndarray,
    *,
    donor: PyTree | None = None,
    patch: str | None = None,
) -> Outcome:
    """Return what a network makes of these facts' answers, one of `PATCHES` of the donor's activations put into it.

    In all layers; attention is the prompt's end's, to the tokens named.
    """
    config, store = simulated.config, simulated.store
    network = _network(config, sizes(config, store), patch)
    logprob, is_right = [], []
    for part in evaluate.chunks(rows, config.layers * simulated.prompts.shape[1] * config.d_ff):
        logits = np.asarray(network(parameters, donor, simulated.prompts[part]), float)
        said = measure.answers(logits, store.answer[part])
        logprob.append(said.answer_logprob)
        is_right.append(said.correct)
    return Outcome(np.concatenate(logprob), np.concatenate(is_right))


def grafted(own: PyTree, given: PyTree, parts: list[str]) -> PyTree:
    """Return a network's parameters with another's in these of `PARTS`."""
    wanted = {module for part in parts for module in PARTS[part]}
    mine, theirs = (cast(dict[tuple, Array], traverse_util.flatten_dict(parameters)) for parameters in (own, given))

    def mixed(path: tuple[Any, ...]) -> Array | np.ndarray:
        if "query_key_value" not in path:
            return theirs[path] if wanted & set(path) else mine[path]
        from_donor = np.array([module in wanted for module in ("query", "key", "value")])
        return np.where(from_donor[:, None, None], theirs[path], mine[path])

    return traverse_util.unflatten_dict({path: mixed(path) for path in mine})


@lru_cache(maxsize=32)
def _network(config: DeepConfig, size: Sizes, patch: str | None):
    """Return the program that says what a network answers to questions, another's activations put into it."""

    def answers(own: PyTree, given: PyTree | None, prompts: Array) -> Float[Array, "fact output"]:
        if patch is None:
            return read(config, size, own, prompts).logits[:, TEMPLATE]
        kept: dict[tuple[str, int], Array] = {}

        def keep(name: str, layer: int, activation: Array) -> Array:
            kept[name, layer] = activation
            return activation

        read(config, size, given, prompts, keep)
        return read(config, size, own, prompts, _giving(patch, kept)).logits[:, TEMPLATE]

    return jax.jit(answers)


def _giving(patch: str, kept: dict[tuple[str, int], Array]) -> Hook:
    """Return the hook that puts what was kept of the donor in its places."""
    what, where = patch.split("@")

    def give(name: str, layer: int, activation: Array) -> Array:
        if name != what:
            return activation
        other = kept[name, layer]
        n_tokens = other.shape[-1] if name == "attention" else other.shape[1]
        is_place = jnp.zeros(n_tokens, dtype=bool).at[PLACES[where]].set(True)
        if name == "attention":
            looked = _mixed(activation[:, :, TEMPLATE], other[:, :, TEMPLATE], is_place)
            return activation.at[:, :, TEMPLATE].set(looked)
        return jnp.where(is_place.reshape(-1, *(1,) * (other.ndim - 2)), other, activation)

    return give


def _mixed(
    own: Float[Array, "fact head token"], other: Float[Array, "fact head token"], is_key: Array
) -> Float[Array, "fact head token"]:
    """Return the other's attention to these tokens, and one's own to the rest in its proportions; they sum to 1."""
    mine, theirs = ((weights * is_key).sum(-1, keepdims=True) for weights in (own, other))
    rest = jnp.where(mine == theirs, 1.0, (1 - theirs) / jnp.maximum(1 - mine, jnp.finfo(own.dtype).tiny))
    return jnp.where(is_key, other, own * rest)
