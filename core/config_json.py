"""Configs as the JSON that results keep of them, and what their fields are marked with.

A field is marked where it is declared, so that nobody has to list it elsewhere: *traced* numbers enter a compiled
program as arguments, so that configs that differ in them alone share one; a *remedy* changes what finetuning is; a
*later* field is younger than stored results.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter

from core.errors import InputError

T = TypeVar("T")
_CONVERTER = make_converter(forbid_extra_keys=True)
_NOT_TRACED = object()


def setting(default: Any, *, traced: Any = _NOT_TRACED, is_remedy: bool = False, is_later: bool = False) -> Any:
    """Return a dataclass field with this default, and marks.

    Args:
        traced: What stands for the number in the structure of a config: a value, or a function of the number (whether
            it is used at all, say).
        is_remedy: Whether any other value than the default changes what finetuning is.
        is_later: Whether results were kept before there was this field. At its default, which must mean what happened
            then, it is left out of the JSON: their config is the same as today's, and so is its hash.
    """
    metadata = {"is_remedy": is_remedy, "is_later": is_later} | ({} if traced is _NOT_TRACED else {"traced": traced})
    return field(default=default, metadata=metadata)


def is_used(number: float) -> float:
    """Return 1 for a number above 0 and else 0: a program is compiled without what is not used."""
    return float(number > 0)


def structure(config: T) -> T:
    """Return the config without its traced numbers, nested ones too: what a program is compiled for."""
    changes: dict[str, Any] = {}
    for one in fields(config):  # type: ignore[arg-type]
        value = getattr(config, one.name)
        if "traced" in one.metadata:
            stand_in: Any | Callable[[Any], Any] = one.metadata["traced"]
            changes[one.name] = stand_in(value) if callable(stand_in) else stand_in
        elif is_dataclass(value):
            changes[one.name] = structure(value)
    return replace(config, **changes)  # type: ignore[type-var]


def remedies(config: Any) -> list[str]:
    """Return the names of a config's remedies that are not at their default, which is to do nothing."""
    return [
        one.name for one in fields(config) if one.metadata.get("is_remedy") and getattr(config, one.name) != one.default
    ]


def plain(value: Any) -> Any:
    """Return the value as JSON knows it: objects for dataclasses, text for paths, lists for arrays, null for NaN."""
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        later = _later(type(value))
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: plain(item) for name, item in given.items() if name not in later or item != later[name]}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def config_hash(config: Any) -> str:
    """Return the SHA-256 of the config's canonical JSON: equal for equal configs, on every machine."""
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def to_json(config: Any) -> dict[str, Any]:
    """Return the resolved config as JSON-ready values."""
    return _CONVERTER.unstructure(config)


def from_json(data: dict[str, Any], kind: type[T], what: str) -> T:
    """Return the config of this kind that `to_json` wrote; InputError where it does not fit this version's fields."""
    try:
        return _CONVERTER.structure(data, kind)
    except cattrs.BaseValidationError as error:
        raise InputError(
            f"the stored config does not fit this version: {'; '.join(cattrs.transform_error(error))}.\n"
            f"Name the {what} instead of --from-run."
        ) from error


def _later(kind: type) -> dict[str, Any]:
    """Return a dataclass's fields that are left out of the JSON at their default, and that default."""
    return {one.name: one.default for one in fields(kind) if one.metadata.get("is_later")}


@_CONVERTER.register_unstructure_hook_factory(lambda kind: is_dataclass(kind) and bool(_later(kind)))  # type: ignore
def _without_later_defaults(kind: type) -> Callable[[Any], dict[str, Any]]:
    omitted: dict[str, Any] = {name: override(omit_if_default=True) for name in _later(kind)}
    return make_dict_unstructure_fn(kind, _CONVERTER, **omitted)
