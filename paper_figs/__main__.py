"""python -m paper_figs: draw every figure, or some, from the results in a folder."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import tyro
from matplotlib.figure import Figure
from rich.console import Console

from core.console import exit_code
from core.errors import InputError
from paper_figs import load
from paper_figs.figures import FIGURES

METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
"""Neither date nor version, so that redrawing gives the same bytes."""

OUTPUT = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Options:
    """Draw the figures of finished results; each is titled by its claim, worded as the numbers allow."""

    runs: Path = Path(__file__).parent / "results"
    """Folder that `python -m theory run … --out DIR`, `sweep` or `deep` wrote, or `python -m empirical run`; by default
    the results kept here."""
    out: Path = Path(__file__).parent / "gallery"
    """Folder for the pictures."""
    only: tuple[str, ...] = ()
    """Names of the figures to draw, such as fig1 or fig1_effect_by_arm; none for all."""
    format: tuple[Literal["png", "pdf"], ...] = ("png",)
    """One format of the pictures or more."""


def run(options: Options) -> int:
    """Draw, print a line for each figure, and return 0.

    Raises:
        InputError: an unknown figure, no or damaged runs, nothing to draw, or a folder that cannot be written to.
    """
    chosen = _chosen(options.only)
    results = load.results(options.runs)
    n_drawn = 0
    for name, module in chosen.items():
        missing = results.missing(module.READS)
        if required := [read for read in missing if read.is_required]:
            OUTPUT.print(f"{name}: skipped; {load.command(required[0], options.runs)} makes the results that it needs.")
            continue
        for read in missing:
            OUTPUT.print(f"{name}: drawn without {read.name}, which {load.command(read, options.runs)} makes.")
        claim, figure = module.draw(results.read_by(module.READS))
        # Laid out once: a second pass, for a second format, would move things.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in options.format:
            path = options.out / f"{name}.{kind}"
            save(figure, path)
            OUTPUT.print(f"{min(str(path), os.path.relpath(path), key=len)}  {claim}")
        n_drawn += 1
    if not n_drawn:
        raise InputError("no figure drawn: the results they need are missing.")
    return 0


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; InputError where the disk refuses."""
    partial = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format=path.suffix[1:], metadata=METADATA[path.suffix[1:]])
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"cannot write {path}: {error.strerror or error}\nName another folder with --out.") from error


def _chosen(names: Sequence[str]) -> dict[str, ModuleType]:
    """Return the figures of these names, or all; InputError for a name that is none."""
    chosen = {}
    for name in names or FIGURES:
        matching = {full: module for full, module in FIGURES.items() if name in (full, full.partition("_")[0])}
        if not matching:
            raise InputError(f"there is no figure {name}.\nThe figures: {', '.join(FIGURES)}")
        chosen |= matching
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    options = tyro.cli(Options, prog="python -m paper_figs", args=arguments)
    return exit_code(lambda: run(options), interrupted="interrupted: the pictures drawn so far are kept.")


if __name__ == "__main__":
    sys.exit(main())
