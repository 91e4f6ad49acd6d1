"""Fixed token embeddings of the dense model: structured (orthonormal) or random (superposed)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from theory.model.config import ModelConfig

Matrix = Float[np.ndarray | Array, "token embedding"]


class Embeddings(NamedTuple):
    """φ of every token, and the rows that read the answers out."""

    subject: Matrix
    relation: Matrix
    template: Matrix
    """A single row."""
    shared: Matrix
    """θ_S and θ_R, the directions that all subjects and all relations have in common."""
    output: Matrix
    """W_U: one row for each answer and filler token."""


def build(config: ModelConfig, n_subjects: int, n_relations: int, n_outputs: int, *, seed: int) -> Embeddings:
    r"""Return φ(s) = √ρ θ_S + √(1-ρ) e_s, φ(r) = √ρ θ_R + √(1-ρ) e_r and φ(q) = e_q.

    Structured: all e and θ orthonormal, and so are the output rows. Random: unit vectors in `config.dimension`
    dimensions, θ_S and θ_R orthonormal to each other and all e free to overlap with everything.
    """
    n_tokens = n_subjects + n_relations + 1
    if config.embeddings == "structured":
        dimension = max(n_tokens + 2, n_outputs)
        basis, output = np.eye(n_tokens + 2, dimension), np.eye(n_outputs, dimension)
        shared, own = basis[n_tokens:], basis[:n_tokens]
    else:
        generator = np.random.default_rng(seed)
        dimension = config.dimension or max(n_tokens // 4, 4)
        shared = np.linalg.qr(generator.standard_normal((dimension, 2)))[0].T
        own = _unit_rows(generator.standard_normal((n_tokens, dimension)))
        output = _unit_rows(generator.standard_normal((n_outputs, dimension)))
    common = np.sqrt(config.shared_share)
    rest = np.sqrt(1 - config.shared_share)
    return Embeddings(
        common * shared[0] + rest * own[:n_subjects],
        common * shared[1] + rest * own[n_subjects:-1],
        own[-1:],
        shared,
        output,
    )


def read(
    token: Float[np.ndarray | Array, "*token embedding"],
    shared: Float[np.ndarray | Array, "kind embedding"],
    value_share: float | Float[np.ndarray | Array, ""] | None,
) -> Float[np.ndarray | Array, "*token embedding"]:
    """Return what W_V reads of a token: all but the shared directions, and `value_share` of those (None: nothing)."""
    missing = 1 if value_share is None else 1 - value_share**0.5
    return token - missing * (token @ shared.T) @ shared


def _unit_rows(rows: Float[np.ndarray, "row embedding"]) -> Float[np.ndarray, "row embedding"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
