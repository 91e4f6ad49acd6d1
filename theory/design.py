"""Designs of a sweep: fields of the config, by dotted name, crossed in a grid or drawn at random."""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import cattrs
import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from core.errors import InputError
from theory import config as configs
from theory.config import Config

LIMIT = 10**6
"""Configs of one design, at most."""

Axes = Sequence[str] | Mapping[str, str | Iterable[Any]]
"""Texts NAME=VALUES; or by name, VALUES as text or the values themselves."""


@dataclass(frozen=True)
class Design:
    """The configs of a sweep, in order."""

    axes: tuple[str, ...]
    """Dotted names of the swept fields, the slowest first."""
    configs: list[Config]
    values: list[dict[str, Any]]
    """Each config's values of the swept fields, by name."""


def fields(config: Any) -> dict[str, Any]:
    """Return the type of every field that an axis can take, by dotted name, in the order of declaration."""
    return dict(_fields(type(config)))


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return the config with fields replaced, given by dotted names; InputError for a name that it does not have."""
    new: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        first, _, rest = _known(type(config), name).partition(".")
        if rest:
            below.setdefault(first, {})[rest] = value
        else:
            new[first] = value
    new |= {first: replace(getattr(config, first), some) for first, some in below.items()}
    return dataclasses.replace(config, **new)


def grid(base: Config, axes: Axes) -> Design:
    """Return every combination of the axes' values, the last axis fastest; without axes the base config alone.

    VALUES are `a,b,c` or, of a field of numbers, LOW:HIGH:COUNT: both ends included, equally spaced or, with `:log`, in
    equal ratios. Points between the ends are rounded, to 12 digits so that a finer grid shares those of a coarser one,
    or to whole numbers where the field is one.

    Raises:
        InputError: an unknown field, or one given twice; values that the field cannot hold, or that coincide; a config
            that means nothing; more than `LIMIT` configs.
    """
    columns = {name: _points(name, kind, given) for name, kind, given in _parse(base, axes)}
    n_configs = math.prod(map(len, columns.values()))
    if n_configs > LIMIT:
        sizes = " × ".join(f"{len(points):,} {name}" for name, points in columns.items())
        raise InputError(
            f"the grid has {n_configs:,} configs ({sizes}), more than {LIMIT:,}.\n"
            "Take fewer points on some axis, or a random design in place of the grid."
        )
    return _design(base, columns, itertools.product(*columns.values()))


def sample(base: Config, axes: Axes, *, method: Literal["random", "lhs", "sobol"], n: int, seed: int) -> Design:
    """Return n random configs, every axis uniform.

    `random` draws points one by one; `lhs` is a Latin hypercube: one point in each n-th of every axis; `sobol` is a
    scrambled Sobol sequence: its first n points, evenest where n is a power of 2.

    VALUES are a list to choose from or, of a field of numbers, LOW:HIGH, with `:log` uniform in the logarithm. Whole
    numbers from LOW to HIGH, both included, are equally likely; with `:log` in proportion to log((k+1)/k).

    Raises:
        InputError: as `grid`; n is not in 1 to `LIMIT`, the seed is negative, or there are no axes.
    """
    if not 1 <= n <= LIMIT:
        raise InputError(f"a random design of {n:,} configs: their number must lie between 1 and {LIMIT:,}.")
    if seed < 0:
        raise InputError(f"the design's seed is {seed}: it must be at least 0.")
    draws = {name: _draw(name, kind, given) for name, kind, given in _parse(base, axes)}
    if not draws:
        raise InputError("a random design without axes.\nName the fields to draw, as NAME=LOW:HIGH or NAME=A,B,C.")
    shares = _shares(method, n, len(draws), seed)
    columns = [draw(column) for draw, column in zip(draws.values(), shares.T, strict=True)]
    return _design(base, draws, zip(*columns, strict=True))


def _shares(method: str, n: int, n_axes: int, seed: int) -> Float[np.ndarray, "config axis"]:
    """Return points of the unit cube."""
    rng = np.random.default_rng(seed)
    if method == "random":
        return rng.random((n, n_axes))
    if method == "lhs":
        return qmc.LatinHypercube(n_axes, rng=rng).random(n)
    # SciPy warns of any n but a power of 2: draw the power above it.
    return qmc.Sobol(n_axes, rng=rng).random_base2((n - 1).bit_length())[:n]


def _design(base: Config, axes: Iterable[str], rows: Iterable[Sequence[Any]]) -> Design:
    """Return the design of these values, each config checked."""
    names = tuple(axes)
    values = [dict(zip(names, row, strict=True)) for row in rows]
    designed = [replace(base, row) for row in values]
    for config, row in zip(designed, values, strict=True):
        try:
            configs.check(config)
        except InputError as error:
            point = ", ".join(f"{name}={value}" for name, value in row.items())
            raise InputError(f"at {point or 'the base config'}: {error}") from error
    return Design(names, designed, values)


@cache
def _fields(kind: type) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, annotation in get_type_hints(kind).items():
        if dataclasses.is_dataclass(annotation):
            leaves |= {f"{name}.{rest}": leaf for rest, leaf in _fields(annotation).items()}
        elif get_origin(annotation) is not tuple:  # a list of names is no axis
            leaves[name] = annotation
    return leaves


@cache
def _known(kind: type, name: str) -> str:
    """Return the field's name, hyphens as in its flag allowed; InputError with the nearest names if there is none."""
    known, wanted = _fields(kind), name.strip().replace("-", "_")
    if wanted in known:
        return wanted
    namesakes = [field for field in known if field.rpartition(".")[2] == wanted.rpartition(".")[2]]
    if near := namesakes or difflib.get_close_matches(wanted, known):
        raise InputError(f"no field {name!r}.\nDid you mean {' or '.join(near)}?")
    raise InputError(f"no field {name!r}.\n`python -m theory run paper --dry-run` shows them all.")


def _parse(base: Config, axes: Axes) -> list[tuple[str, Any, str | Iterable[Any]]]:
    """Return each axis's field, its type, and what is given for it."""
    if isinstance(axes, Mapping):
        pairs = list(axes.items())
    else:
        split = [text.partition("=") for text in ([axes] if isinstance(axes, str) else axes)]
        if wrong := [name for name, sign, _ in split if not sign]:
            raise InputError(f"{wrong[0]!r} gives no values.\nWrite NAME=VALUES, as in pretrain.steps=500,1000,2000.")
        pairs = [(name, values) for name, _, values in split]
    names = [_known(type(base), name) for name, _ in pairs]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise InputError(f"{twice[0]} is given twice.\nPut all of its values into one axis.")
    return [(name, _fields(type(base))[name], given) for name, (_, given) in zip(names, pairs, strict=True)]


def _points(name: str, kind: Any, given: str | Iterable[Any]) -> list[Any]:
    """Return an axis's values in a grid."""
    if not _is_range(kind, given):
        return _listed(name, kind, given)
    low, high, count, is_log = _range(name, kind, str(given), "LOW:HIGH:COUNT")
    if count == 1 and low != high:
        raise InputError(f"{name}={given}: one point cannot be both ends.\nAsk for 2 or more, or write {name}={low}.")
    between = (np.geomspace if is_log else np.linspace)(low, high, count)[1:-1].tolist()
    inner = [round(point) if isinstance(low, int) else float(f"{point:.12g}") for point in between]
    points = [low, *inner, high][:count]
    if len(set(points)) < count:
        rounded = ", rounded to whole numbers" if isinstance(low, int) else ""
        raise InputError(f"{name}={given}: some of the {count} points coincide{rounded}.\nAsk for fewer, or list them.")
    return points


def _draw(name: str, kind: Any, given: str | Iterable[Any]) -> Callable[[np.ndarray], list[Any]]:
    """Return the function from shares in [0, 1) to an axis's values in a random design."""
    if not _is_range(kind, given):
        choices = _listed(name, kind, given)
        return lambda shares: [choices[int(at)] for at in shares * len(choices)]
    low, high, _, is_log = _range(name, kind, str(given), "LOW:HIGH")
    if low == high:
        raise InputError(f"{name}={given}: the range holds one value.\nWrite {name}={low}.")
    is_whole = isinstance(low, int)
    top = high + is_whole  # the whole number k stands for all from k to k + 1

    def draw(shares: np.ndarray) -> list[Any]:
        drawn = low * (top / low) ** shares if is_log else low + (top - low) * shares
        return np.clip(np.floor(drawn).astype(int) if is_whole else drawn, low, high).tolist()

    return draw


def _listed(name: str, kind: Any, given: str | Iterable[Any]) -> list[Any]:
    """Return an axis's values given one by one."""
    items = (given.split(",") if given else []) if isinstance(given, str) else given
    values = [_value(name, kind, item) for item in items]
    if not values:
        raise InputError(f"{name} has no values.\nWrite NAME=VALUES, as in pretrain.steps=500,1000,2000.")
    if twice := [value for at, value in enumerate(values) if value in values[:at]]:
        raise InputError(f"{name} has the value {twice[0]} twice.\nLeave one out.")
    return values


def _range(name: str, kind: Any, text: str, form: str) -> tuple[Any, Any, int, bool]:
    """Return a range's ends in the field's type, its count (0 where the form has none), and whether it is in ratios."""
    numbers = text.removesuffix(":log").split(":")
    if len(numbers) != len(form.split(":")):
        raise InputError(f"{name}={text}: not a range.\nWrite {form}, {form}:log, or values with commas between.")
    low, high = (_value(name, int if int in _options(kind) else float, end) for end in numbers[:2])
    count = _value(f"{name}={text}", int, numbers[2]) if len(numbers) == 3 else 0
    if len(numbers) == 3 and not 1 <= count <= LIMIT:
        raise InputError(f"{name}={text}: {count} points; their number must lie between 1 and {LIMIT:,}.")
    if low > high:
        raise InputError(f"{name}={text}: LOW is above HIGH.\nWrite the lower end first.")
    is_log = text.endswith(":log")
    if is_log and low <= 0:
        raise InputError(f"{name}={text}: equal ratios need LOW above 0.\nRaise it, or leave out :log.")
    return low, high, count, is_log


def _is_range(kind: Any, given: str | Iterable[Any]) -> bool:
    """Return whether this is a range: text with a colon, of a field of numbers."""
    return isinstance(given, str) and ":" in given and bool({int, float}.intersection(_options(kind)))


def _value(name: str, kind: Any, given: Any) -> Any:
    """Return one value in the field's type; InputError saying what the field takes."""
    given = given.strip() if isinstance(given, str) else given
    try:
        if NoneType in _options(kind) and given in (None, "None"):
            return None
        value = _CONVERTER.structure(given, kind)
        is_same = isinstance(given, str) or value == given  # int(0.5) is 0
        if given != "" and is_same and not (isinstance(value, float) and not math.isfinite(value)):
            return value
    except (ValueError, TypeError, KeyError, OverflowError, cattrs.errors.CattrsError):
        pass
    takes = [str(word) for option in _options(kind) for word in get_args(option) or [_WORDS.get(option, option)]]
    raise InputError(f"{name} cannot be {given!r}.\nIt takes {' or '.join(takes)}.")


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the types that a field's value may have."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _bool(given: Any, _: type) -> bool:
    return {"true": True, "false": False}[str(given).lower()]


_WORDS = {NoneType: "None", int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "path"}
_CONVERTER = cattrs.Converter(detailed_validation=False)
_CONVERTER.register_structure_hook(bool, _bool)
