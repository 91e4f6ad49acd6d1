"""Remedies: changes of finetuning that both flows know, all off by default. A flow may have more of its own.

A remedy is declared here, or in one flow's own config, by a marked field; what it does stands beside the other remedies
of each flow, in `theory/remedies.py` and `empirical/lm/remedies.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal

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


def check(config: Remedies) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if not 0 <= config.kl_weight < math.inf:
        raise InputError(f"--finetune.kl-weight is {config.kl_weight}: it must be a number, at least 0.")
    if not 0 <= config.replay <= 1:
        raise InputError(f"--finetune.replay is {config.replay}: it must lie between 0 and 1.")


def check_dev(config: Remedies, share: float) -> None:
    """Raise InputError where a remedy needs dev facts, and this share of the facts is none."""
    if config.early_stopping and not share:
        raise InputError("--finetune.early-stopping needs dev facts.\nAdd --split.dev 0.1.")
