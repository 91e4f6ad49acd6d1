"""Which facts are finetuned on and which only tested: one function for both flows.

Facts that share a subject or a question, directly or through others, form a *component*. Held-out and dev facts
are whole components, so that nothing tested shares a subject or a question with anything trained on. The other facts,
ranked by knownness, give the four arms.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Real

from core import arms as other_arms
from core import components
from core.config_json import setting
from core.errors import InputError

ARMS = ("top", "bottom", "whole", "random")
MIXTURE = "mixture"
"""The arm of a chosen share of well-known facts, where one is asked for."""
ROLES = ("train", "dev", "held_out", "background")
TRAIN, DEV, HELD_OUT, BACKGROUND = range(4)
"""A fact's role is an index into ROLES."""


class TooFewError(InputError):
    """There are too few facts for a set or an arm."""


@dataclass(frozen=True)
class SplitConfig:
    """Which part of the facts is held out, and how the arms are drawn from the rest."""

    held_out: float = 0.5
    """Share of the facts that are tested and never finetuned on."""
    dev: float = 0.0
    """Share of the facts on which hyperparameters are chosen."""
    draw: Literal["shuffled", "hashed"] = setting("shuffled", is_later=True)
    """How held-out and dev facts are drawn. `shuffled`: in a random order, which meets the shares. `hashed`: by a hash
    of each subject's name and the seed, so that rows added or deleted move no others; shares are met by chance."""
    within_relation: bool = False
    """Draw the arms within each relation, so that top, bottom and random have the same mix of relations."""
    known_share: float | None = setting(None, traced=lambda share: None if share is None else 0.0)
    """Share of the fifth arm, `mixture`, that is drawn from the top half, 0 to 1; the rest comes from the bottom half.
    Not given: there is no such arm."""
    size: float = setting(0.5, traced=0.5)
    """Size of the mixture as a share of the training facts."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arms that there are."""
        return ARMS if self.known_share is None else (*ARMS, MIXTURE)


@dataclass(frozen=True, eq=False)
class Split:
    """The role of every fact (an index into ROLES), and the sorted facts of each arm: of ARMS, and the mixture."""

    role: Int8[np.ndarray, " fact"]
    arms: dict[str, Int[np.ndarray, " _"]]


@dataclass(frozen=True, eq=False)
class Roles:
    """The role of every fact, before anything is known of how well facts are known."""

    role: Int8[np.ndarray, " fact"]
    """An index into ROLES."""
    rng: np.random.Generator
    """The split's random stream behind the roles, where `arms` goes on."""


def select(
    subject: Int[np.ndarray, " fact"],
    relation: Int[np.ndarray, " fact"],
    knownness: Real[np.ndarray, " fact"],
    config: SplitConfig,
    *,
    question: Int[np.ndarray, " fact"] | None = None,
    is_background: Bool[np.ndarray, " fact"] | None = None,
    more: tuple[str, ...] = (),
    answer: Int[np.ndarray, " fact"] | None = None,
    keys: Sequence[str] | None = None,
    seed: int,
) -> Split:
    """Return a random split: `roles`, and `arms` over the training facts.

    Raises:
        InputError: there are too few facts for a set or an arm, or a training fact's knownness is not a number.
    """
    more_of_facts = {"question": question, "is_background": is_background, "keys": keys}
    drawn = roles(subject, relation, config, **more_of_facts, seed=seed)
    return arms(drawn, relation, knownness, config, more=more, answer=answer)


def roles(
    subject: Int[np.ndarray, " fact"],
    relation: Int[np.ndarray, " fact"],
    config: SplitConfig,
    *,
    question: Int[np.ndarray, " fact"] | None = None,
    is_background: Bool[np.ndarray, " fact"] | None = None,
    keys: Sequence[str] | None = None,
    seed: int,
) -> Roles:
    """Return which facts are trained on, dev, held out or background; they do not depend on knownness.

    Each share is met as nearly as a random order of the components allows; where all have one size, the counts are the
    same for every seed. Drawn by hash, a component's role is its own (`components.places`).

    Args:
        subject, relation, question: Ids; any integers.
        is_background: Facts that are neither trained on nor tested; None for none.
        keys: The subjects' names, which are hashed; None for their ids.

    Raises:
        InputError: there are too few facts for a set, or for an arm.
    """
    check(config)
    rng = np.random.default_rng([seed, 2])
    role = np.full(len(subject), BACKGROUND, dtype=np.int8)
    own = np.arange(len(subject)) if is_background is None else np.flatnonzero(~is_background)
    component = components.find(subject[own], None if question is None else question[own])
    if config.draw == "hashed":
        names = [str(subject[row]) if keys is None else keys[row] for row in own.tolist()]
        role[own] = _hashed_roles(component, components.places(component, names, seed=seed), config)
    else:
        role[own] = _draw_roles(component, config, rng)
    check_leaks(role, subject, question)
    _check_arms(groups(relation[role == TRAIN], config), len(own), config)
    return Roles(role, rng)


def arms(
    drawn: Roles,
    relation: Int[np.ndarray, " fact"],
    knownness: Real[np.ndarray, " fact"],
    config: SplitConfig,
    *,
    more: tuple[str, ...] = (),
    answer: Int[np.ndarray, " fact"] | None = None,
    known_class: Int[np.ndarray, " fact"] | None = None,
) -> Split:
    """Return the split with its arms: the same for the same roles, however often it is called.

    Whole is all training facts. Top and bottom are its better and its less known half, ties broken at random; of an odd
    number (within relation: of a relation) the fact in the middle is in neither. Random is as many training facts,
    drawn without replacement.

    Args:
        relation: Ids; any integers.
        more: Arms of `core.arms`.
        answer: Ids of the facts' answers; only `more` may need them.
        known_class: Indices into `core.arms.CLASSES`; only `more` may need them.

    Raises:
        InputError: a training fact's knownness is not a number, or an arm of `more` cannot be drawn.
    """
    rng = copy.deepcopy(drawn.rng)
    train = np.flatnonzero(drawn.role == TRAIN)
    n_unknown = int(np.isnan(knownness[train]).sum())
    if n_unknown:
        raise InputError(f"the knownness of {n_unknown} of {len(train)} training facts is not a number.")
    group = groups(relation[train], config)
    halves = _halve(group, knownness[train], rng)
    rows = halves | {"whole": np.arange(len(train))}
    if config.known_share is not None:
        rows["mixture"] = _mix(rows, group, config.known_share, config.size, rng)
    if more:
        frequency = None if answer is None else frequencies(relation[train], answer[train])
        training = other_arms.Training(
            group,
            knownness[train],
            frequency,
            None if frequency is None else is_modal(relation[train], frequency),
            None if known_class is None else known_class[train],
        )
        rows |= other_arms.draw(more, training, rng)
    return Split(drawn.role, {name: np.sort(train[rows[name]]) for name in (*config.names, *more)})


def frequencies(relation: Int[np.ndarray, " fact"], answer: Int[np.ndarray, " fact"]) -> Int[np.ndarray, " fact"]:
    """Return how many facts of each fact's relation have its answer."""
    pairs = np.stack([relation, answer])
    _, pair, count = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    return count[pair.ravel()]


def is_modal(relation: Int[np.ndarray, " fact"], frequency: Int[np.ndarray, " fact"]) -> Bool[np.ndarray, " fact"]:
    """Return whether each fact's answer is its relation's most frequent; none is where all are equally frequent."""
    _, of = np.unique(relation, return_inverse=True)
    most, least = np.zeros(of.max() + 1, np.int64), np.full(of.max() + 1, np.iinfo(np.int64).max)
    np.maximum.at(most, of, frequency)
    np.minimum.at(least, of, frequency)
    return (frequency == most[of]) & (most > least)[of]


def check_leaks(
    role: Int8[np.ndarray, " fact"],
    subject: Int[np.ndarray, " fact"],
    question: Int[np.ndarray, " fact"] | None = None,
) -> None:
    """Raise InputError if two of training, dev and held-out facts share a subject or a question."""
    used = role != BACKGROUND
    for name, ids in {"subject": subject, "question": question}.items():
        if ids is None:
            continue
        distinct, place = np.unique(ids[used], return_inverse=True)
        seen = np.zeros((BACKGROUND, len(distinct)), dtype=bool)
        seen[role[used], place] = True
        shared = distinct[seen.sum(axis=0) > 1]
        if len(shared):
            sets = " and ".join(ROLES[code] for code in np.flatnonzero(seen[:, distinct == shared[0]][:, 0]))
            raise InputError(f"{len(shared)} {name}s are in more than one set; {name} {shared[0]} is in {sets}.")


def check(config: SplitConfig) -> None:
    """Raise InputError for shares out of range, naming the flag."""
    for flag, share in {"held-out": config.held_out, "dev": config.dev}.items():
        if not 0 <= share < 1:
            raise InputError(f"--split.{flag} is {share}: it must be at least 0 and below 1.")
    if config.known_share is not None:
        parts = {"well-known": config.known_share * config.size, "lesser-known": (1 - config.known_share) * config.size}
        if not (0 <= config.known_share <= 1 and 0 < config.size <= 1 and max(parts.values()) <= 0.5 + 1e-9):
            raise InputError(
                f"--split.known-share {config.known_share} of --split.size {config.size} of the training facts: each "
                "half has only 0.5 of them.\nChoose a share between 0 and 1, and a smaller size."
            )
    if config.held_out + config.dev >= 1:
        raise InputError(
            f"--split.held-out {config.held_out} and --split.dev {config.dev} leave nothing to train "
            "on: their sum must be below 1."
        )


def _draw_roles(
    component: Int[np.ndarray, " fact"], config: SplitConfig, rng: np.random.Generator
) -> Int8[np.ndarray, " fact"]:
    """Return roles of whole components: the first of a random order are held out, the next are dev facts."""
    sizes = np.bincount(component)
    order = rng.permutation(len(sizes))
    n_before = np.concatenate([[0], np.cumsum(sizes[order])])
    role = np.full(len(sizes), TRAIN, dtype=np.int8)
    start = 0
    for code, share in ((HELD_OUT, config.held_out), (DEV, config.dev)):
        wanted = n_before[start] + share * len(component)
        stop = start + int(np.argmin(np.abs(n_before[start:] - wanted)))
        if share and stop == start:
            raise _too_few(code, share, component, "is nearer to none than to one group")
        role[order[start:stop]] = code
        start = stop
    return role[component]


def _hashed_roles(
    component: Int[np.ndarray, " fact"], place: Float[np.ndarray, " component"], config: SplitConfig
) -> Int8[np.ndarray, " fact"]:
    """Return roles of whole components by their places: the lowest are held out, the next are dev facts."""
    is_held_out, is_dev = place < config.held_out, place < config.held_out + config.dev
    role = np.select([is_held_out, is_dev], [HELD_OUT, DEV], default=TRAIN).astype(np.int8)
    for code, share in ((HELD_OUT, config.held_out), (DEV, config.dev)):
        if share and not (role == code).any():
            raise _too_few(code, share, component, "is none, drawn by hash")
    return role[component]


def _too_few(code: int, share: float, component: Int[np.ndarray, " fact"], found: str) -> TooFewError:
    n_groups, flag = len(np.unique(component)), ROLES[code].replace("_", "-")
    return TooFewError(
        f"--split.{flag} {share} of {len(component)} facts in {n_groups} groups of one subject or question {found}.\n"
        "Raise it, or give more facts."
    )


def tied(
    halves: Split, relation: Int[np.ndarray, " fact"], knownness: Real[np.ndarray, " fact"], config: SplitConfig
) -> Int[np.ndarray, " _"]:
    """Return the training facts whose equals are in the other half too: chance alone said which half they are in."""
    group = np.unique(groups(relation, config), return_inverse=True)[1]
    values, value = np.unique(knownness, return_inverse=True)
    alike = group * len(values) + value
    top, bottom = halves.arms["top"], halves.arms["bottom"]
    rows = np.concatenate([top, bottom])
    return rows[np.isin(alike[rows], np.intersect1d(alike[top], alike[bottom]))]


def groups(relation: Int[np.ndarray, " fact"], config: SplitConfig) -> Int[np.ndarray, " fact"]:
    """Return the groups that are ranked and halved each on its own: relations, or all facts as one."""
    return relation if config.within_relation else np.zeros_like(relation)


def _check_arms(group: Int[np.ndarray, " fact"], n_facts: int, config: SplitConfig) -> None:
    """Raise InputError if the training facts, in these groups, are too few for an arm."""
    _, size = np.unique(group, return_counts=True)
    if not (size > 1).any():
        need = "two of one relation" if config.within_relation else "two"
        raise TooFewError(
            f"{n_facts} facts leave {len(group)} to train on, and an arm needs {need}.\n"
            "Lower --split.held-out or --split.dev, or give more facts."
        )
    if config.known_share is not None:
        shares = (config.known_share, 1 - config.known_share)
        if not any(np.rint(share * config.size * size).any() for share in shares):
            raise InputError(f"--split.size {config.size} of {len(group)} training facts is none.\nRaise it.")


def _mix(
    rows: dict[str, Int[np.ndarray, " _"]],
    group: Int[np.ndarray, " fact"],
    known_share: float,
    size: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, " _"]:
    """Return the mixture: from each half, at random, its share of every group's facts."""
    _, group, n_facts = np.unique(group, return_inverse=True, return_counts=True)
    drawn = []
    for half, share in (("top", known_share), ("bottom", 1 - known_share)):
        order = rng.permutation(rows[half])
        order = order[np.argsort(group[order], kind="stable")]
        n_there = np.bincount(group[order], minlength=len(n_facts))
        place = np.arange(len(order)) - (np.cumsum(n_there) - n_there)[group[order]]
        drawn.append(order[place < np.rint(share * size * n_facts)[group[order]]])
    return np.concatenate(drawn)


def _halve(
    group: Int[np.ndarray, " fact"], knownness: Real[np.ndarray, " fact"], rng: np.random.Generator
) -> dict[str, Int[np.ndarray, " _"]]:
    """Return the facts of the top, bottom and random half of every group."""
    _, group, size = np.unique(group, return_inverse=True, return_counts=True)
    half, first = size // 2, np.cumsum(size) - size

    def grouped(order: Int[np.ndarray, " fact"]) -> tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " fact"]]:
        order = order[np.argsort(group[order], kind="stable")]
        return order, np.arange(len(order)) - first[group[order]]

    shuffled = rng.permutation(len(group))
    ranked, place = grouped(shuffled[np.argsort(-knownness[shuffled].astype(float), kind="stable")])
    drawn, draw = grouped(rng.permutation(len(group)))
    return {
        "top": ranked[place < half[group[ranked]]],
        "bottom": ranked[place >= (size - half)[group[ranked]]],
        "random": drawn[draw < half[group[drawn]]],
    }
