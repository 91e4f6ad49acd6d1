"""A model's numbers as compiled programs take them: one program serves all their values."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from theory.model.config import ModelConfig, Prompt

Number = float | Float[Array | np.ndarray, ""]


class Constants(NamedTuple):
    """A model's numbers as a compiled program takes them, stacked over worlds: one program serves all their values."""

    shared_share: float | Float[np.ndarray | Array, "*world"]
    value_share: float | Float[np.ndarray | Array, "*world"] | None
    """None where W_V reads nothing of the common parts, which spares the program their values."""
    template_strength: float | Float[np.ndarray | Array, "*world"]
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


def uncounted(config: ModelConfig) -> Constants:
    """Return the numbers of a model each of whose outputs stands for itself, as they are: for one program alone."""
    return Constants(config.shared_share, config.value_share or None, config.template_strength)


class Rates(NamedTuple):
    """SGD rates of the logits' parts, per unit of the dense rate on W_KQ."""

    shared: tuple[Number, Number]
    subject: Number
    relation: Number
    template: Number
    shared_by_relation: Number
    subject_by_relation: Number


def rates(shared_share: Number, prompt: Prompt) -> Rates:
    """Return the squared lengths of φ(x)φ(query)ᵀ's parts: the rate of each part of the logits."""
    common, own = shared_share, 1 - shared_share
    if prompt == "template":
        return Rates((common, common), own, own, 1.0, 0.0, 0.0)
    return Rates((common**2, common**2), own * common, 1 - common**2, 0.0, common * own, own**2)
