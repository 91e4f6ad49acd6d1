"""Texts as numbers: equal texts share one, and a later text in the order of characters has a larger one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def numbered(texts: Sequence[str]) -> Int[np.ndarray, " text"]:
    """Return each text's place among the distinct ones, sorted.

    These are the numbers of np.unique, whose array of texts takes as much for each as for the longest: four bytes a
    character.
    """
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.array([places[text] for text in texts], dtype=int)
