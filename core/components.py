"""Facts that share a subject or a question, directly or through others: never parted by a split."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse import csgraph


def find(subject: Int[np.ndarray, " fact"], question: Int[np.ndarray, " fact"] | None) -> Int[np.ndarray, " fact"]:
    """Return each fact's component, counted from 0: of the graph that joins a fact's subject to its question."""
    subjects, subject = np.unique(subject, return_inverse=True)
    if question is None:
        return subject
    questions, question = np.unique(question, return_inverse=True)
    size = len(subjects) + len(questions)
    edges = (np.ones(len(subject), dtype=bool), (subject, len(subjects) + question))
    _, label = csgraph.connected_components(sparse.coo_array(edges, shape=(size, size)), directed=False)
    return label[subject]


def places(component: Int[np.ndarray, " fact"], keys: Sequence[str], *, seed: int) -> Float[np.ndarray, " component"]:
    """Return each component's place, uniform from 0 to below 1, a hash of the seed and its key alone.

    Its key is the first in the order of characters among its facts' `keys`: no other component has a part in it.
    """
    first: dict[int, str] = {}
    for label, key in zip(component.tolist(), keys, strict=True):
        first[label] = min(key, first.get(label, key))
    return np.array([_place(first[label], seed) for label in range(len(first))])


def _place(key: str, seed: int) -> float:
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
