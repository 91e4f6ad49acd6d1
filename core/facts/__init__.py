"""Facts from any source, as one record type: a module for each data set, read through the cells of a table.

A source is a module of this package that has its name and a function `read(Request) -> FactSet`. To add one, write the
module and add its name to `Source`.
"""

from importlib import import_module
from typing import Literal, get_args

from core.facts.record import FactSet
from core.facts.request import Request

Source = Literal["popqa", "entity_questions", "mmlu", "table"]
"""The sources, by the names of their modules."""
SOURCES: tuple[str, ...] = get_args(Source)


def read(source: Source, request: Request) -> FactSet:
    """Return the source's facts; InputError if its files cannot be understood, or it does not take a setting."""
    return import_module(f"{__name__}.{source}").read(request)
