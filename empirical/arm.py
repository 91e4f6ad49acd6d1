"""An arm of a study by its name: which facts are finetuned on, and with which remedies or controls."""

from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from core.errors import InputError
from empirical.finetune import FinetuneConfig

SETTINGS = {
    one.name: one.default
    for one in fields(FinetuneConfig)
    if one.metadata.get("is_remedy") or one.name in ("answers", "steps")
}
"""What may stand behind an arm's facts, and the value at which it does nothing: remedies, answers, equal steps."""

_WORDS = {
    name: get_args(kind) if get_origin(kind) is Literal else ()
    for name, kind in get_type_hints(FinetuneConfig).items()
    if name in SETTINGS
}
"""The words that a setting takes; none where it takes something else."""


def facts_of(arm: str) -> str:
    """Return which facts an arm is finetuned on: `bottom` of `bottom+replay=0.1`."""
    return arm.partition("+")[0]


def finetuning(config: FinetuneConfig, arm: str) -> FinetuneConfig:
    """Return how an arm is finetuned, its own remedies included.

    Args:
        arm: ARM, or with remedies behind it ARM+REMEDY=VALUE, as in `bottom+kl_weight=1+frozen=query_key,mlp`.

    Raises:
        InputError: there is no such remedy, or it does not take this value.
    """
    _, *given = arm.split("+")
    return replace(config, **dict(_remedy(text, arm) for text in given))


def _remedy(text: str, arm: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name not in SETTINGS or not value:
        raise InputError(
            f"--arms {arm}: {text!r} is no remedy.\nWrite ARM+REMEDY=VALUE, REMEDY one of {', '.join(SETTINGS)}."
        )
    try:
        return name, _value(value, name)
    except ValueError as error:
        kind = {bool: "true", tuple: "names with commas between"}.get(type(SETTINGS[name]), "a number")
        allowed = " or ".join(_WORDS[name]) or kind
        raise InputError(f"--arms {arm}: {name} is {value!r}, it must be {allowed}.") from error


def _value(text: str, name: str) -> Any:
    default = SETTINGS[name]
    if isinstance(default, bool) or _WORDS[name]:
        if text not in (_WORDS[name] or ("true",)):
            raise ValueError
        return text if _WORDS[name] else True
    return tuple(text.split(",")) if isinstance(default, tuple) else type(default)(text)
