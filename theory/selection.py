"""Which facts to finetune on: arms of any size by rules, some of which read the base model, as R9's does.

An arm is named RULE@SIZE: best@300 has 300 facts, best@0.5 half of the training facts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from core import arms, split
from core.errors import InputError
from core.facts.store import FactStore
from core.split import SplitConfig
from theory import evaluate, knownness
from theory.knownness import KnownnessConfig
from theory.law import selection
from theory.law.selection import Best
from theory.model.config import Weights

RULES = {
    "popular": "the most popular",
    "unpopular": "the least popular",
    "random": "drawn at random",
    "salient": "the largest salience in the base model",
    "margin": "the largest margin over the best rival in the base model",
    "logprob": "the likeliest in the base model",
    "rarest": "the rarest answers of their relation (needs no model)",
    "not_modal": "answers that are not their relation's most frequent, popular ones first (needs no model)",
    "force": "the largest force on attention to the subject, at a share of ½",
    "best": "the largest force at the share where the best arm rests (R9)",
}
"""Each rule's facts."""
BEST = "best"
MEASURES = {
    "salient": KnownnessConfig("salience"),
    "margin": KnownnessConfig("margin"),
    "logprob": KnownnessConfig("logprob"),
}
"""What the rules that rank by knownness measure."""
_NAME = re.compile(rf"({'|'.join(RULES)})@(\d+|0?\.\d+)")


class Rule(NamedTuple):
    """An arm's rule, and its size: a share below 1, or a number of facts."""

    name: str
    size: float

    def count(self, n_facts: int) -> int:
        """Return how many of the training facts it takes."""
        return int(self.size) if self.size >= 1 else int(self.size * n_facts)


def name(rule: str, size: float) -> str:
    """Return the arm's name."""
    return f"{rule}@{size:.12g}"


def parse(arm: str) -> Rule | None:
    """Return the arm's rule; None if its name is of another kind."""
    found = _NAME.fullmatch(arm)
    return Rule(found[1], float(found[2])) if found else None


def check(names: Sequence[str]) -> None:
    """Raise InputError for an arm that there is not, or that is named twice."""
    ruled = tuple(arm for arm in names if "@" in arm)
    if wrong := [arm for arm in ruled if (rule := parse(arm)) is None or not rule.size]:
        raise InputError(
            f"--more-arms {wrong[0]}: no rule and size.\nName RULE@SIZE: best@0.5 has half of the training facts, "
            f"best@300 has 300; the rules are {', '.join(RULES)}."
        )
    if len(set(ruled)) < len(ruled):
        raise InputError(f"--more-arms {' '.join(ruled)}: name each once at most.")
    arms.check(tuple(arm for arm in names if arm not in ruled))


def check_world(names: Sequence[str], store: FactStore, config: SplitConfig, *, seed: int) -> None:
    """Raise InputError for an arm of more facts than the world's split trains on, before anything is trained."""
    if rules := {arm: rule for arm in names if (rule := parse(arm))}:
        given = {"is_background": store.is_background, "keys": store.keys}
        role = split.roles(store.subject, store.relation, config, **given, seed=seed).role
        _check_sizes(rules, int(np.count_nonzero(role == split.TRAIN)))


def _check_sizes(rules: Mapping[str, Rule], n_training: int) -> None:
    for arm, rule in rules.items():
        if not 0 < rule.count(n_training) <= n_training:
            raise InputError(
                f"--more-arms {arm}: there are {n_training:,} training facts.\n"
                "Name a size from 1 to as many (of select: --sizes)."
            )


def draw(
    names: Sequence[str], base: Weights, store: FactStore, halves: split.Split, config: SplitConfig, *, seed: int
) -> tuple[dict[str, Int[np.ndarray, " _"]], dict[str, Best]]:
    """Return the facts of the arms that are named by rule and size, and of those by R9 the bound on their size.

    Rules that rank facts take them within relations where the split does; those by force rank all together, since R9
    is about all.

    Args:
        base: the base model at the question prompt.
        halves: the split, with training facts in `whole`.

    Raises:
        InputError: an arm of more facts than there are, or of none.
    """
    rules = {arm: rule for arm in names if (rule := parse(arm))}
    train = halves.arms["whole"]
    _check_sizes(rules, len(train))
    of_force = _Forces(base, store, train)
    values: dict[str, np.ndarray] = {}
    drawn, bounds = {}, {}
    for arm, rule in rules.items():
        n = rule.count(len(train))
        if rule.name == BEST:
            bounds[arm] = of_force.best(n)
            rows = bounds[arm].rows
        elif rule.name == "force":
            rows = np.argsort(-of_force(selection.START), kind="stable")[:n]
        else:
            if rule.name not in values:
                rng = np.random.default_rng([seed, 14, list(RULES).index(rule.name)])
                values[rule.name] = _place(
                    _value(rule.name, base, store, train, rng), store.relation[train], config, rng
                )
            rows = np.argsort(values[rule.name], kind="stable")[:n]
        drawn[arm] = np.sort(train[rows])
    return drawn, bounds


class _Forces:
    """The training facts' forces on the subject's logit at any share, tabulated where R9 needs them."""

    def __init__(self, base: Weights, store: FactStore, train: Int[np.ndarray, " row"]):
        self._base, self._store, self._train = base, store, train
        self._table: np.ndarray | None = None

    def __call__(self, share: float) -> Float[np.ndarray, " fact"]:
        parts = evaluate.chunks(self._train, 3 * len(self._base.template_value))
        values = ((evaluate.token_values(self._base, self._store, part), self._store.answer[part]) for part in parts)
        return np.concatenate([selection.subject_force(*of_part, share) for of_part in values])

    def best(self, n: int) -> Best:
        if self._table is None:
            self._table = selection.tabulate(self)
        return selection.best(self._table, self, n)


def _value(
    rule: str, base: Weights, store: FactStore, train: Int[np.ndarray, " row"], rng: np.random.Generator
) -> Float[np.ndarray, " fact"]:
    """Return what a rule ranks the training facts by, the highest first."""
    popularity = store.popularity[train]
    if rule == "random":
        return rng.random(len(train))
    if rule in ("popular", "unpopular"):
        return popularity if rule == "popular" else -popularity
    if rule in ("rarest", "not_modal"):
        relation = store.relation[train]
        frequency = split.frequencies(relation, store.answer[train])
        if rule == "rarest":
            return -frequency.astype(float)
        return arms.modal_last(popularity, split.is_modal(relation, frequency))
    return knownness.score(MEASURES[rule], base, store)[train]


def _place(
    value: Float[np.ndarray, " fact"],
    relation: Int[np.ndarray, " fact"],
    config: SplitConfig,
    rng: np.random.Generator,
) -> Float[np.ndarray, " fact"]:
    """Return each fact's place by value, 0 to 1, the highest first, ties at random: among all, or in its relation."""
    place, size = arms.ranks(split.groups(relation, config), value, rng)
    return (place + 0.5) / size
