"""A deliberate error: one function of the program, made anew with a piece of its text replaced."""

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPILED = ("theory.model", "theory.engine", "theory.pretrain", "theory.finetune", "theory.law.forecast")
"""Modules whose functions end up in compiled programs."""


@dataclass(frozen=True)
class Mutation:
    """An error, by what it does."""

    name: str
    function: str
    """MODULE:FUNCTION."""
    right: str
    """A piece of the function's text that occurs in it once."""
    wrong: str
    """What takes its place."""
    tests: str = ""
    """The file of tests that should notice; not given: the module's own."""

    @property
    def module(self) -> str:
        """The module whose function is replaced."""
        return self.function.partition(":")[0]

    @property
    def test_file(self) -> str:
        """The tests that are asked."""
        *folders, name = self.module.split(".")
        return self.tests or str(Path("tests", *folders, f"test_{name}.py"))


def wrong_function(mutation: Mutation) -> tuple[Any, Any]:
    """Return the right and the wrong function.

    Raises:
        ValueError: the piece of text does not occur just once: the program has changed, and the catalogue has not.
    """
    module = importlib.import_module(mutation.module)
    name = mutation.function.partition(":")[2]
    right = getattr(module, name)
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(right)))
    n_times = source.count(mutation.right)
    if n_times != 1 or mutation.right == mutation.wrong:
        raise ValueError(f"{mutation.name}: {mutation.function} holds {mutation.right!r} {n_times} times")
    made: dict[str, Any] = {}
    code = compile(source.replace(mutation.right, mutation.wrong), f"<mutation: {mutation.name}>", "exec")
    exec(code, vars(module), made)
    return right, made[name]


def put(old: Any, new: Any) -> list[tuple[Any, str]]:
    """Replace a function wherever a module of the program holds it, and return these places."""
    program = [module for name, module in sys.modules.items() if name.split(".")[0] in ("core", "theory")]
    places = [(module, name) for module in program for name, value in vars(module).items() if value is old]
    for module, name in places:
        setattr(module, name, new)
    return places


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Run the block with the error in the program; nothing compiled before or within it is used on the other side."""
    right, wrong = wrong_function(mutation)
    places = put(right, wrong)
    is_compiled = mutation.module.startswith(COMPILED)
    if is_compiled:
        forget()
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, right)
        if is_compiled:
            forget()


def forget() -> None:
    """Drop every compiled program of this process."""
    import jax

    from theory import finetune, pretrain
    from theory.law import forecast

    for program in (pretrain._program, finetune._program, forecast._program):
        program.cache_clear()
    jax.clear_caches()
