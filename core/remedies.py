"""Remedies: changes of finetuning that both flows know, all off by default. A flow may have more of its own.

A remedy is declared here, or in one flow's own config, by a marked field; what it does stands beside the other remedies
of each flow, in `theory/remedies.py` and `empirical/lm/remedies.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Real
from scipy import stats

from core.config_json import is_used, setting
from core.errors import InputError


@dataclass(frozen=True)
class Remedies:
    """The remedies of both flows, at values that change nothing."""

    early_stopping: bool = setting(False, is_remedy=True)
    """Take the recorded step (0 among them) with the least loss on the dev facts, not the last. A remedy."""
    kl_weight: float = setting(0.0, traced=is_used, is_remedy=True)
    """Weight of KL(base ‖ tuned) on the training prompts' outputs, added to the loss. A remedy."""
    curriculum: Literal["mixed", "known_first", "known_last"] = setting("mixed", is_remedy=True)
    """`known_first`: the first half of the steps draws from the arm's better-known half, the rest from the other;
    `known_last`: the other way round."""
    replay: float = setting(0.0, traced=is_used, is_remedy=True)
    """0 to 1: the share of every batch that repeats the best-known tenth of all training facts. A remedy."""
    known_weight: float = setting(0.0, traced=is_used, is_remedy=True, is_later=True)
    """Power p of the weight by knownness: a fact's loss counts (1 + p) r^p, r its percentile rank by knownness in the
    arm from 0 to 1, so that the arm's mean weight is 1. At 0 all facts count alike. A remedy."""


def check(config: Remedies) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if not 0 <= config.kl_weight < math.inf:
        raise InputError(f"--finetune.kl-weight is {config.kl_weight}: it must be a number, at least 0.")
    if not 0 <= config.replay <= 1:
        raise InputError(f"--finetune.replay is {config.replay}: it must lie between 0 and 1.")
    if not 0 <= config.known_weight < math.inf:
        raise InputError(f"--finetune.known-weight is {config.known_weight}: it must be a number, at least 0.")
    if config.known_weight and config.curriculum != "mixed":
        raise InputError(
            "--finetune.known-weight and --finetune.curriculum both say when the lesser-known facts count.\n"
            "Leave one of them."
        )


def check_dev(config: Remedies, share: float) -> None:
    """Raise InputError where a remedy needs dev facts, and this share of the facts is none."""
    if config.early_stopping and not share:
        raise InputError("--finetune.early-stopping needs dev facts.\nAdd --split.dev 0.1.")


def known_weights(knownness: Real[np.ndarray, " fact"], power: float) -> Float[np.ndarray, " fact"]:
    """Return what each fact's loss is multiplied by: the mean of (1 + power) r^power over the fact's share of ranks r.

    Ranks go from 0, the least known, to 1; n facts have 1/n each, and equally known ones share theirs. The mean is 1
    whatever the power; at power 1 it is twice the percentile rank.
    """
    low, high = ((stats.rankdata(knownness, ends) - (ends == "min")) / len(knownness) for ends in ("min", "max"))
    return (high ** (power + 1) - low ** (power + 1)) / (high - low)
