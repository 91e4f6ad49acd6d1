r"""The model's settings, and what every measurement reads: the tokens' values and attention logits.

One layer, one head, fixed embeddings, no residual at the output:

    z_i = φ(x_i)ᵀ W_KQ φ(x_T)    α = softmax(z)    logits = W_U W_V Σ_i α_i φ(x_i) = Σ_i α_i v_{x_i}

It is trained in two parametrisations: `factored` holds the values and attention logits themselves, `dense` holds W_V
and W_KQ. Both are measured through `Weights`.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from core.config_json import is_used, setting
from core.errors import InputError

Prompt = Literal["template", "bare", "fresh_relation"]

MAX_LOSS = 80.0
"""Nats. A larger loss is a diverged run: exp(80) is still finite in float32, so nothing overflows before it is seen."""
MAX_RATE = 1e6
"""The largest SGD rate: float32 numbers that one step moves so far keep no decimals."""


@dataclass(frozen=True)
class ModelConfig:
    """The toy transformer."""

    parametrisation: Literal["factored", "dense"] = "factored"
    """What is trained: the tokens' values and attention logits themselves (table: fast, structured embeddings and SGD
    only), or the matrices W_V and W_KQ (dense: any embeddings, any optimizer)."""
    embeddings: Literal["structured", "random"] = "structured"
    """Orthonormal directions, or random ones in fewer dimensions than there are tokens (superposition; dense only)."""
    dimension: int | None = None
    """Width of the random embeddings. None: a quarter of the number of tokens."""
    shared_share: float = setting(0.5, traced=0.0)
    """ρ, in 0 to 1: the share of a subject's (relation's) embedding that all subjects (relations) have in common. It is
    how an update on one subject reaches every other."""
    value_share: float = setting(0.0, traced=is_used)
    """0 to 1: how much of the common part W_V reads. 0: values are a token's own, as the theorem assumes."""
    n_filler: int = 50
    """Output tokens that answer no question: what tends to follow the template in pretraining."""
    template_strength: float = setting(20.0, traced=1.0)
    """The template's value on every filler token, in nats at full attention: the format gap that finetuning closes."""


def check_rate(flag: str, rate: float) -> None:
    """Raise InputError for an SGD rate that is not positive, or that overflows within a few steps."""
    if not 0 < rate <= MAX_RATE:
        raise InputError(f"--{flag} is {rate}: it must be a positive number, at most {MAX_RATE:,.0f}.")


def check(config: ModelConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if config.n_filler < 1:
        raise InputError(f"--model.n-filler is {config.n_filler}: it must be at least 1.")
    if not 0 <= config.shared_share < 1:
        raise InputError(f"--model.shared-share is {config.shared_share}: it must be at least 0 and below 1.")
    if not 0 <= config.value_share <= 1:
        raise InputError(f"--model.value-share is {config.value_share}: it must lie between 0 and 1.")
    if not math.isfinite(config.template_strength):
        raise InputError(f"--model.template-strength is {config.template_strength}: it must be a number.")
    if config.dimension is not None and config.dimension < 2:
        raise InputError(f"--model.dimension is {config.dimension}: it must be at least 2.")


class Weights(NamedTuple):
    """A model as its measurements see it: token values, and attention logits as they enter the softmax at the query."""

    subject_values: Float[np.ndarray, "subject output"]
    relation_values: Float[np.ndarray, "relation output"]
    template_value: Float[np.ndarray, " output"]
    subject_logit: Float[np.ndarray, " subject"] | Float[np.ndarray, "subject relation"]
    """A matrix where the query is the relation, so that the logit depends on both."""
    relation_logit: Float[np.ndarray, " relation"]
    template_logit: Float[np.ndarray, ""]
    """-inf where the prompt has no template."""
