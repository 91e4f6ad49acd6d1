"""What the command lines share: parsing, --version, old flags that name the new ones, and how a command ends."""

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from core.console import exit_code
from core.errors import InputError

DISTRIBUTION = "finetuning-facts"


def main(
    command: Any,
    module: str,
    description: str,
    *,
    arguments: Sequence[str] | None = None,
    former: Mapping[str, str],
    interrupted: str,
    prepare: Callable[[], object] = lambda: None,
) -> int:
    """Parse the arguments into the command, call it, and return the exit code.

    The code is the command's own (0, or 1 where a result fails), 2 for a mistake in the input, 130 for Ctrl-C.

    Args:
        command: The type of the command: a dataclass, or a union of them, whose instances are called.
        module: The package that `python -m` runs.
        former: Old flag or word to what it is called now.
        prepare: Called once the arguments are understood.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"{DISTRIBUTION} {version()}")
        return 0

    def run() -> int:
        check_former(given, former)
        parsed = tyro.cli(command, prog=program(module), args=given, description=description)
        prepare()
        return parsed()

    return exit_code(run, interrupted=interrupted)


def program(module: str) -> str:
    """Return what the user typed: the installed script's name, or `python -m MODULE`."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("facts-") else f"python -m {module}"


def version() -> str:
    """Return the installed version; of a checkout that is not installed, that of no release."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def check_former(arguments: Sequence[str], former: Mapping[str, str]) -> None:
    """Raise InputError for a flag or word of an earlier version, naming the present one."""
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-") if argument.startswith("--") else argument
        if name in former:
            raise InputError(f"{name} is now {former[name]}.\nThe whole list: CHANGELOG.md, under Renamed.")
