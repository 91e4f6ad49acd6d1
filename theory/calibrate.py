"""The toy as the counterpart of a language model: pretrained until it recalls as large a share of the same facts.

The length of pretraining is the one number that is chosen. How often each fact is told follows from the facts'
popularity, so which facts are recalled first is given, and what recall is by fifths of popularity tests the choice.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from core import statistics
from core.errors import InputError
from core.facts.store import FactStore
from core.seeds import Cell
from theory import config as configs
from theory import evaluate, facts, inputs, pipeline, pretrain
from theory.config import Config
from theory.engine.batched import pick, stack
from theory.inputs import Unit
from theory.knownness import KnownnessConfig

FIRST, MOST = 1000, 256_000
"""Pretraining is tried up to the first length, then up to four times as long, and so on to the most."""
N_RECORDS = 40
"""Lengths at which recall is asked: in each try in equal ratios, and then between the two that enclose the share."""
N_ASKED = 10_000
"""Facts, at most, that are asked for."""


class Calibration(NamedTuple):
    """The length of pretraining and what its base model recalls, in the pretraining format."""

    steps: int
    recall: float
    """Share of all facts, the background's left out."""
    by_fifth: Float[np.ndarray, " fifth"]
    """The same of each fifth of the facts by popularity, the most popular first."""
    generic: float
    """Share of the facts whose answer is the relation's most frequent: what recall starts from."""


def steps(config: Config, recall: float) -> Calibration:
    """Return the length of pretraining after which the base model of seed 0 recalls this share of the facts.

    The first such length of those tried; recall wavers, so that others may be somewhat shorter. Other seeds of facts
    that are read differ by their draws alone.

    Args:
        recall: Between 0 and 1, and above what the generic answers alone are right for.

    Raises:
        InputError: recall that is out of range, or not reached in `MOST` steps; a config that cannot be.
    """
    configs.check(config)
    if not 0 < recall < 1:
        raise InputError(f"--recall is {recall}: it must lie between 0 and 1, both excluded.")
    store = facts.build(config.facts, seed=0)
    own = np.flatnonzero(~store.is_background)
    generic = float(np.mean(evaluate.generic_answers(store, own)[store.relation[own]] == store.answer[own]))
    if recall <= generic:
        raise InputError(
            f"--recall is {recall}: the relations' most frequent answers alone are right for {generic:.3f} of these "
            "facts, and the toy gives them from its first steps on.\nAsk for more, or leave out relations that have "
            "one frequent answer (--facts.relations)."
        )
    with jax.enable_x64(config.precision == "float64"):
        n_steps = _first_reaching(config, store, own, recall)
        is_right = _recalled(config, n_steps)[own]
    fifth = statistics.fifth(store.popularity[own])
    by_fifth = np.array([is_right[fifth == one].mean() for one in range(statistics.N_FIFTHS)])
    return Calibration(n_steps, float(is_right.mean()), by_fifth, generic)


def _first_reaching(config: Config, store: FactStore, own: Int[np.ndarray, " fact"], recall: float) -> int:
    """Return the first length of pretraining with this recall, sought in ever longer ones, then between two records."""
    world = inputs.world(config, store, 0)._replace(probe=inputs.spread(own, N_ASKED))
    sizes = pretrain.Sizes(store.n_subjects, store.n_relations, store.n_answers)

    def curve(lengths: Float[np.ndarray, " record"]) -> tuple[Int[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        records = np.rint(lengths).astype(np.int32)[None]
        _, trace = pick(pretrain.run(config.pretrain, config.model, stack([world]), sizes, records=records), 0)
        return np.asarray(trace.step), np.asarray(trace.measured, dtype=float)

    last, highest = FIRST, 0.0
    while last <= MOST:
        length, recalled = curve(np.geomspace(last // 100, last, N_RECORDS))
        if (recalled >= recall).any():
            at = int(np.argmax(recalled >= recall))
            length, recalled = curve(np.linspace(length[at - 1] + 1, length[at], N_RECORDS))
            return int(length[np.argmax(recalled >= recall)])
        last, highest = 4 * last, max(highest, float(np.nanmax(recalled)))
    raise InputError(
        f"--recall {recall}: the base model recalls {highest:.3f} of the facts at most, in {MOST:,} steps.\n"
        "Ask for less, or lower --facts.popularity-exponent (of given popularity --facts.exposure-exponent)."
    )


def _recalled(config: Config, n_steps: int) -> Bool[np.ndarray, " fact"]:
    """Return which facts the base model of seed 0 recalls after so many steps."""
    by_margin = replace(
        config, pretrain=replace(config.pretrain, steps=n_steps), knownness=KnownnessConfig(measure="margin")
    )
    (base,) = pipeline.pretrained([Unit(by_margin, Cell(0, 0, 0))], pipeline.Clock())
    return base.knownness > 0
