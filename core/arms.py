"""Arms beside the halves by knownness: what tells how well a fact is known from what its answer is, and size apart.

Every family is drawn within the groups that halves are drawn in (relations, for real questions), from a random stream
of its own, so that asking for one moves no other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from core.errors import InputError

Rows = Int[np.ndarray, " _"]
CLASSES = ("highly_known", "maybe_known", "weakly_known", "unknown")
"""The classes of Gekhman et al. (2024), the best known first; each is also the name of an arm."""
SIZES = {"size_5": 0.05, "size_10": 0.10, "size_25": 0.25}
"""Random subsets of the training facts, nested, by their share; `random` is half, `whole` all of them."""


@dataclass(frozen=True, eq=False)
class Training:
    """What arms are drawn from: the training facts, one entry for each."""

    group: Int[np.ndarray, " fact"]
    """Facts of a group are ranked and drawn among themselves."""
    knownness: Real[np.ndarray, " fact"]
    """The larger the better known."""
    frequency: Int[np.ndarray, " fact"] | None = None
    """How many training facts of the fact's relation have its answer."""
    is_modal: Bool[np.ndarray, " fact"] | None = None
    """Whether no answer of the fact's relation is more frequent among its training facts (and others are less)."""
    known_class: Int[np.ndarray, " fact"] | None = None
    """Index into CLASSES."""


def check(names: tuple[str, ...]) -> None:
    """Raise InputError for an arm that a toy does not have, or that is named twice."""
    allowed = [name for name in NAMES if name not in CLASSES]
    if len(set(names)) < len(names) or not set(names) <= set(allowed):
        raise InputError(f"--more-arms {' '.join(names)}: name each of {', '.join(allowed)} once at most.")


def draw(names: tuple[str, ...], training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Return these arms' facts, by index into the training facts.

    Args:
        rng: Is not advanced; the families draw from streams spawned from it.

    Raises:
        InputError: an arm that there is not, that needs answers or classes which are not given, or would be empty.
    """
    if unknown := set(names) - set(NAMES):
        raise InputError(f"--arms: there is no arm {min(unknown)}; there are {', '.join(NAMES)}.")
    streams = dict(zip(FAMILIES, rng.spawn(len(FAMILIES)), strict=True))
    rows: dict[str, Rows] = {}
    for family, (arms, function) in FAMILIES.items():
        if set(arms) & set(names):
            rows |= function(training, streams[family])
    for name in names:
        if not len(rows[name]):
            raise InputError(
                f"the arm {name} would be empty: {len(training.group)} training facts are too few, or too alike.\n"
                "Give more facts, or leave the arm out of --arms."
            )
    return {name: rows[name] for name in names}


def halves(
    group: Int[np.ndarray, " fact"], value: Real[np.ndarray, " fact"], rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """Return the facts of every group's upper and lower half by value, ties broken at random; an odd one is in none."""
    place, size = ranks(group, value, rng)
    return np.flatnonzero(place < size // 2), np.flatnonzero(place >= size - size // 2)


def ranks(
    group: Int[np.ndarray, " fact"], value: Real[np.ndarray, " fact"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " fact"]]:
    """Return each fact's place in its group by value, the highest 0, ties broken at random; and the group's size."""
    _, group, size = np.unique(group, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.permutation(len(group)), -np.asarray(value, dtype=float), group))
    place = np.empty(len(group), dtype=np.int64)
    place[order] = np.arange(len(group)) - (np.cumsum(size) - size)[group[order]]
    return place, size[group]


def modal_last(knownness: Real[np.ndarray, " fact"], is_modal: Bool[np.ndarray, " fact"]) -> Float[np.ndarray, " fact"]:
    """Return values that rank facts by knownness, those with their relation's most frequent answer after all others."""
    _, rank = np.unique(knownness, return_inverse=True)
    return rank - np.where(is_modal, float(len(rank)), 0.0)


def _frequency(training: Training) -> Int[np.ndarray, " fact"]:
    if training.frequency is None:
        raise InputError("arms by how frequent an answer is need the answers.")
    return training.frequency


def _by_answer(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Halves by how frequent the fact's answer is in its relation."""
    common, rare = halves(training.group, _frequency(training), rng)
    return {"common": common, "rare": rare}


def _matched(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Halves by knownness that hold equally frequent answers: within bins of the frequency's base-2 logarithm."""
    bins = np.floor(np.log2(_frequency(training))).astype(np.int64)
    _, cell = np.unique(np.stack([training.group, bins]), axis=1, return_inverse=True)
    top, bottom = halves(cell.ravel(), training.knownness, rng)
    return {"top_matched": top, "bottom_matched": bottom}


def _crossed(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Knownness × rarity: four cells of equal size in every group."""
    known, unknown = (
        np.isin(np.arange(len(training.group)), rows) for rows in halves(training.group, training.knownness, rng)
    )
    common, rare = (
        np.isin(np.arange(len(training.group)), rows) for rows in halves(training.group, _frequency(training), rng)
    )
    cells = {
        "known_common": known & common,
        "known_rare": known & rare,
        "unknown_common": unknown & common,
        "unknown_rare": unknown & rare,
    }
    return _equal(cells, training.group, rng)


def _by_class(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """The classes of knownness, as many facts of each in every group."""
    if training.known_class is None:
        raise InputError("arms by class of knownness need the classes.\nAdd --knownness.classes.")
    cells = {name: training.known_class == index for index, name in enumerate(CLASSES)}
    return _equal(cells, training.group, rng)


def _sizes(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Nested random subsets of several sizes."""
    place, size = ranks(training.group, np.zeros(len(training.group)), rng)
    return {name: np.flatnonzero(place < np.rint(share * size)) for name, share in SIZES.items()}


def _not_modal(training: Training, rng: np.random.Generator) -> dict[str, Rows]:
    """Half of the facts: those whose answer is not their relation's most frequent one, the best known first."""
    if training.is_modal is None:
        raise InputError("arms by how frequent an answer is need the answers.")
    return {"not_modal": halves(training.group, modal_last(training.knownness, training.is_modal), rng)[0]}


def _equal(cells: dict[str, np.ndarray], group: Int[np.ndarray, " fact"], rng: np.random.Generator) -> dict[str, Rows]:
    """Return as many facts of each cell in every group, drawn at random: as the smallest cell of the group has."""
    _, group = np.unique(group, return_inverse=True)
    counts = np.stack([np.bincount(group[cell], minlength=group.max() + 1) for cell in cells.values()])
    wanted, drawn = counts.min(axis=0), {}
    for name, cell in cells.items():
        rows = np.flatnonzero(cell)
        place, _ = ranks(group[rows], np.zeros(len(rows)), rng)
        drawn[name] = rows[place < wanted[group[rows]]]
    return drawn


FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[Training, np.random.Generator], dict[str, Rows]]]] = {
    "answer": (("common", "rare"), _by_answer),
    "matched": (("top_matched", "bottom_matched"), _matched),
    "crossed": (("known_common", "known_rare", "unknown_common", "unknown_rare"), _crossed),
    "class": (CLASSES, _by_class),
    "size": (tuple(SIZES), _sizes),
    "modal": (("not_modal",), _not_modal),
}
"""The arms that are drawn together, and how. A new family goes last: streams are counted in this order."""
NAMES = tuple(name for arms, _ in FAMILIES.values() for name in arms)
CROSSED = (*FAMILIES["matched"][0], *FAMILIES["crossed"][0])
"""Arms that tell how well a fact is known from how frequent its answer is."""
MATCHED = {"top_matched": 1.0, "bottom_matched": -1.0}
"""What halves of equally frequent answers are compared by."""
KNOWNNESS, RARITY = "known − unknown, of equal rarity", "rare − common, of equal knownness"
CONTRASTS = {
    RARITY: {"known_rare": 0.5, "unknown_rare": 0.5, "known_common": -0.5, "unknown_common": -0.5},
    KNOWNNESS: {"known_rare": 0.5, "known_common": 0.5, "unknown_rare": -0.5, "unknown_common": -0.5},
    "effect of rarity, known − unknown": {
        "known_rare": 1.0,
        "unknown_rare": -1.0,
        "known_common": -1.0,
        "unknown_common": 1.0,
    },
}
"""What the crossed arms are compared by: the weight of each arm."""
