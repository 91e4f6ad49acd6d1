"""The screen study: which properties of a world, and which finetuning, open or close the effect.

`screen`: seven properties at two levels in 16 worlds, a fractional factorial design of resolution IV: main effects are
clear of each other and of all two-factor interactions (Box, Hunter and Hunter 2005, table 6.14). `fine`: the strongest
ones at more levels, one at a time. `recipe`: learning rate, epochs and adapters in the two worlds at the ends. Every
world has several base models; the base model is the unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from core.factors import FACTORS
from core.facts.store import Background
from empirical.config import Config
from empirical.worlds.world import WorldConfig

PARTS = ("factorial", "fine", "recipe")
N_FACTS = 800
"""Facts of every world, whatever the number of subjects."""
N_RELATIONS = 4
ARMS = ("top", "random", "bottom")


CENTRE = "hllllll"
"""Levels of the world from which one factor at a time is varied: a deep tail, and all else low."""
FINE = {"tail": (0.5, 2.0, 8.0, 32.0), "answers": (10.0, 30.0, 100.0), "format": (0.0, 0.1, 0.3)}
"""The factors with the largest effects in the screen: two on accuracy, one on attention."""
ENDS = {"open": "hhlhlll", "closed": "llhhhll"}
"""Levels of the worlds with the largest and the smallest gap in the screen, in which the recipe is varied."""
RECIPES: tuple[tuple[Literal["full", "lora"], float, int], ...] = (
    *(("full", rate, 6) for rate in (1e-4, 3e-4, 1e-3)),
    *(("full", 3e-4, epochs) for epochs in (3, 12)),
    *(("lora", rate, 6) for rate in (1e-3, 3e-3, 1e-2)),
)
"""Method, learning rate, epochs."""


@dataclass(frozen=True)
class Variant:
    """One world of the study with its finetuning."""

    part: str
    series: str
    """The factor that `fine` varies, or the end that `recipe` starts from; empty in the factorial part."""
    name: str
    """Name of the folder of results."""
    config: Config


def variants(base: Config, parts: Sequence[str] = PARTS) -> list[Variant]:
    """Return the study's worlds, part after part."""
    by_part = {
        "factorial": [
            Variant("factorial", "", f"screen-{name}", _at(base, _levels(name))) for name in map(_name, design())
        ],
        "fine": [_varied(base, factor, value) for factor, values in FINE.items() for value in values],
        "recipe": [_cooked(base, end, *recipe) for end in ENDS for recipe in RECIPES],
    }
    return [variant for part in parts for variant in by_part[part]]


def design() -> Int[np.ndarray, "world factor"]:
    """Return the levels, −1 or 1: a full factorial of four factors, and products of three of these for the others."""
    a, b, c, d = (np.array(np.meshgrid(*[[-1, 1]] * 4, indexing="ij")).reshape(4, -1))[::-1]
    return np.stack([a, b, c, d, a * b * c, b * c * d, a * c * d], axis=1)


def values(world: WorldConfig) -> dict[str, float]:
    """Return a world's value of every factor."""
    by_factor = {
        "tail": world.exposure.low,
        "background": world.background.size,
        "answers": world.n_answers,
        "names": world.names == "distinctive",
        "relations": world.distinct_relations,
        "facts_per_subject": world.facts_per_subject,
        "format": world.qa_share,
    }
    return {name: float(value) for name, value in by_factor.items()}


def _name(levels: Int[np.ndarray, " factor"]) -> str:
    """Return a letter for each factor, h or l."""
    return "".join("h" if level > 0 else "l" for level in levels)


def _levels(name: str) -> dict[str, float]:
    return {
        factor.name: factor.high if letter == "h" else factor.low for factor, letter in zip(FACTORS, name, strict=True)
    }


def _varied(base: Config, factor: str, value: float) -> Variant:
    config = _at(base, _levels(CENTRE) | {factor: value})
    return Variant("fine", factor, f"screen-{factor}-{value:g}", config)


def _cooked(base: Config, end: str, method: Literal["full", "lora"], rate: float, epochs: int) -> Variant:
    config = _at(base, _levels(ENDS[end]))
    train = replace(config.finetune.train, epochs=epochs)
    finetune = replace(config.finetune, method=method, learning_rates=(rate,), train=train)
    return Variant("recipe", end, f"screen-{end}-{method}-{rate:g}-{epochs}-epochs", replace(config, finetune=finetune))


def _at(base: Config, values: Mapping[str, float]) -> Config:
    """Return the config of a world with these values of the factors."""
    world = base.world
    per = int(values["facts_per_subject"])
    return replace(
        base,
        arms=ARMS,
        world=WorldConfig(
            n_subjects=N_FACTS // per,
            n_relations=N_RELATIONS,
            facts_per_subject=per,
            n_answers=int(values["answers"]),
            distinct_relations=int(values["relations"]),
            background=Background(size=float(values["background"]), share=0.3, skew=1.0),
            exposure=replace(world.exposure, low=float(values["tail"])),
            paraphrases=world.paraphrases,
            names="distinctive" if values["names"] else "shared",
            qa_share=float(values["format"]),
        ),
    )
