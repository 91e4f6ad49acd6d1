"""How often each fact of a world is told: by rank or popularity, between a tail and a cap."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from scipy import optimize, stats

from core.errors import InputError


@dataclass(frozen=True)
class Exposure:
    """How often the model reads of each fact in pretraining."""

    by: Literal["rank", "popularity"] = "rank"
    """`rank`: exposures are log-spaced from `high` to `low` by popularity rank. `popularity`: they are proportional to
    popularity^exponent, scaled to `mean` and kept between `low` and `high`."""
    low: float = 0.5
    """Expected number of sentences about the least known fact."""
    high: float = 400.0
    """Expected number of sentences about the best known fact."""
    exponent: float = 0.5
    """Exponent on popularity; below 1 it tempers a heavy tail such as page views (only for `popularity`)."""
    mean: float = 60.0
    """Expected number of sentences about a fact, averaged over facts (only for `popularity`)."""


def check(config: Exposure) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if config.by not in ("rank", "popularity"):
        raise InputError(f"--world.exposure.by is {config.by!r}: it must be rank or popularity.")
    if not 0 < config.low < config.high < float("inf"):
        raise InputError(
            f"--world.exposure.low {config.low} and high {config.high}: both must be positive, low below high."
        )
    if not 0 <= config.exponent < float("inf"):
        raise InputError(f"--world.exposure.exponent is {config.exponent}: it must be at least 0.")
    if config.by == "popularity" and not config.low < config.mean < config.high:
        raise InputError(f"--world.exposure.mean is {config.mean}: it must lie between {config.low} and {config.high}.")


def expected(config: Exposure, popularity: Float64[np.ndarray, " fact"]) -> Float64[np.ndarray, " fact"]:
    """Return the expected sentences about each fact, between `low` and `high`; equal popularity, equal number."""
    if config.by == "rank":
        rank = stats.rankdata(-popularity, method="average") - 1
        return config.high * (config.low / config.high) ** (rank / max(1, len(rank) - 1))
    logarithm = config.exponent * np.log(np.maximum(popularity, 1e-300))  # of none, the tail
    weight = np.maximum(np.exp(logarithm - logarithm.max()), np.finfo(float).tiny)

    def counts(scale: float) -> Float64[np.ndarray, " fact"]:
        with np.errstate(over="ignore"):  # what is too large is held at `high`
            return np.clip(weight * np.exp(scale), config.low, config.high)

    # Monotone in the scale, from all at `low` to all at `high`.
    span = float(-np.log(weight.min()) + np.log(config.high))
    scale: Any = optimize.brentq(lambda s: counts(s).mean() - config.mean, np.log(config.low) - 1, span + 1)
    return counts(scale)
