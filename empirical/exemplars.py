"""Answered questions that stand before the one that is asked: of its relation, and giving nothing away."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np

from core.errors import InputError
from core.facts.record import Fact
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Prompt

Shown = Iterator[tuple[list[int], list[Prompt]]]
"""Rows of facts that share their examples, with their prompts."""


def choose(
    facts: Sequence[Fact], pool: Sequence[Fact], n: int, *, seed: int | None, prompt: int = 0
) -> list[list[Fact]]:
    """Return n facts of the pool for each fact: of its relation as long as there are any, then of others.

    The pool is in one random order for all; left out are facts of the same question or subject.

    Args:
        seed: None: the pool's own order.
        prompt: Which of several draws.

    Raises:
        InputError: the pool is too small.
    """
    shuffled = list(pool)
    if seed is not None:
        shuffled = [pool[row] for row in np.random.default_rng([seed, 10, prompt]).permutation(len(pool))]
    of_relation: dict[str, list[Fact]] = defaultdict(list)
    for candidate in shuffled:
        of_relation[candidate.relation].append(candidate)
    chosen = []
    for fact in facts:
        others = (candidate for candidate in shuffled if candidate.relation != fact.relation)
        candidates = chain(of_relation.get(fact.relation, ()), others)
        chosen.append(list(islice((c for c in candidates if not _gives_away(c, fact)), n)))
        if len(chosen[-1]) < n:
            raise InputError(
                f"{n} examples are needed before each question, and {fact.question[:60]!r} has {len(chosen[-1])} facts "
                "beside it.\nLower --knownness.shots, or give more facts."
            )
    return chosen


def _gives_away(candidate: Fact, fact: Fact) -> bool:
    return candidate.question == fact.question or (fact.subject != "" and candidate.subject == fact.subject)


def prompts(
    model: LanguageModel, facts: Sequence[Fact], pool: Sequence[Fact], *, shots: int, n: int, seed: int | None
) -> Shown:
    """Yield rows of facts that share their examples, with their prompts; each fact comes n times."""
    for index in range(n):
        examples = choose(facts, pool, shots, seed=seed, prompt=index)
        asked = [model.format.build(fact, own) for fact, own in zip(facts, examples, strict=True)]
        groups: dict[str, list[int]] = defaultdict(list)
        for row, prompt in enumerate(asked):
            groups[prompt.text[: prompt.question[0]]].append(row)
        for rows in groups.values():
            yield rows, [asked[row] for row in rows]
