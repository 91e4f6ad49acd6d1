"""Made-up names for a synthetic world: pronounceable, distinct, of shared parts or of their own."""

from collections import Counter
from typing import Literal

import numpy as np

ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS = ("", "l", "m", "n", "r", "s", "t", "x", "nd", "rk")

NameParts = Literal["shared", "distinctive"]

SHARED = 80
"""Distinct words from which names of shared parts are drawn."""


def words(n: int, rng: np.random.Generator, *, taken: frozenset[str] = frozenset()) -> list[str]:
    """Return n distinct capitalised words of two syllables (of three once those run out), none of them in `taken`."""
    drawn: dict[str, None] = {}
    n_syllables = 2
    n_tries = 0
    while len(drawn) < n:
        word = "".join(_syllable(rng) for _ in range(n_syllables)).capitalize()
        n_tries += 1
        if word not in taken:
            drawn[word] = None
        if n_tries > 4 * n + 1000:
            n_syllables, n_tries = n_syllables + 1, 0
    return list(drawn)


def people(
    n: int, parts: NameParts, longest: int, rng: np.random.Generator, *, taken: frozenset[str] = frozenset()
) -> list[str]:
    """Return n distinct names of 1 to `longest` words, as many of each length as can be, none of them in `taken`.

    Of shared parts, every word is one of SHARED, so that a name is known by the combination alone (one word is then
    not enough: 2 words at least, and one more where all of a length are taken). Distinctive names have words of their
    own.
    """
    if parts == "distinctive":
        pool = words(n * longest, rng, taken=taken)
        return [" ".join(pool[i * longest : i * longest + 1 + i % longest]) for i in range(n)]
    pool = words(SHARED, rng)
    drawn: set[str] = set()
    n_drawn: Counter[int] = Counter()
    names: list[str] = []
    while len(names) < n:
        n_words = max(2, 1 + len(names) % longest)
        while n_drawn[n_words] == len(pool) ** n_words:
            n_words += 1
        name = " ".join(rng.choice(pool, n_words))
        if name not in drawn:
            drawn.add(name)
            n_drawn[n_words] += 1
            if name not in taken:
                names.append(name)
    return names


def _syllable(rng: np.random.Generator) -> str:
    return str(rng.choice(ONSETS)) + str(rng.choice(VOWELS)) + str(rng.choice(CODAS))
