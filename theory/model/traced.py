"""A model's numbers as compiled programs take them: one program serves all their values."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from theory.model.config import ModelConfig


class Constants(NamedTuple):
    """A model's numbers as a compiled program takes them, stacked over worlds: one program serves all their values."""

    shared_share: Float[np.ndarray | Array, "*world"]
    value_share: Float[np.ndarray | Array, "*world"] | None
    """None where W_V reads nothing of the common parts, which spares the program their values."""
    template_strength: Float[np.ndarray | Array, "*world"]
    multiplicity: Float[np.ndarray | Array, "*world output"] | None = None
    """How many outputs each one stands for; None: each for itself. The factored model trains one filler for all:
    nothing tells them apart, so their values stay equal, and a softmax that counts one for all is the same."""


def of(config: ModelConfig, n_answers: int, dtype: str) -> Constants:
    """Return the numbers of one world."""
    share, value_share, strength = (
        np.asarray(number, dtype) for number in (config.shared_share, config.value_share, config.template_strength)
    )
    multiplicity = np.append(np.ones(n_answers, dtype), np.asarray(config.n_filler, dtype))
    return Constants(
        share,
        value_share if config.value_share else None,
        strength,
        multiplicity if config.parametrisation == "factored" else None,
    )


def structure(config: ModelConfig) -> ModelConfig:
    """Return the config without the numbers in `Constants`: what a program is compiled for."""
    return replace(config, shared_share=0.0, value_share=float(config.value_share > 0), template_strength=1.0)


def shares_values(config: ModelConfig | Constants) -> bool:
    """Return whether W_V reads the common parts at all."""
    return config.value_share is not None and not (isinstance(config.value_share, float) and config.value_share == 0)
