"""Configs as the JSON that results keep of them."""

from typing import Any, TypeVar

import cattrs
from cattrs.preconf.json import make_converter

from core.errors import InputError

T = TypeVar("T")
_CONVERTER = make_converter(forbid_extra_keys=True)


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
