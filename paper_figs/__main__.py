"""python -m paper_figs: draw every figure, or some, from the results in a folder."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tyro
from matplotlib.figure import Figure
from rich.console import Console

from paper_figs import (
    fig1_effect_by_arm,
    fig2_gap_by_popularity,
    fig3_attention_along_finetuning,
    fig4_salience_by_popularity,
    fig5_share_force,
    fig6_critical_attention,
    fig7_phase_diagram,
    fig8_dose_response,
    fig9_remedies,
    fig10_deep_toy,
    fig11_language_model,
    fig12_attention_heads,
    fig13_screen,
    load,
)
from paper_figs.load import InputError, Results

FIGURES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        fig1_effect_by_arm,
        fig2_gap_by_popularity,
        fig3_attention_along_finetuning,
        fig4_salience_by_popularity,
        fig5_share_force,
        fig6_critical_attention,
        fig7_phase_diagram,
        fig8_dose_response,
        fig9_remedies,
        fig10_deep_toy,
        fig11_language_model,
        fig12_attention_heads,
        fig13_screen,
    )
}
"""By name. NEEDS lists the experiments without which a figure cannot be drawn, WANTS those of further panels."""

OF_SWEEPS = (fig7_phase_diagram, fig8_dose_response, fig9_remedies)
"""These read sweeps, and their NEEDS and WANTS name some; those below read studies; the others, experiments."""
OF_STUDIES = (fig11_language_model, fig12_attention_heads)
"""These read the language model's studies, and experiments beside them."""
OF_SCREEN = (fig13_screen,)
"""This reads the screen study."""

METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
"""Neither date nor version, so that redrawing gives the same bytes."""

OUTPUT = Console(highlight=False, soft_wrap=True, markup=False)
ERRORS = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)


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
    """One or more."""


def run(options: Options) -> int:
    """Draw, print a line for each figure, and return 0.

    Raises:
        InputError: an unknown figure, no or damaged runs, nothing to draw, or a folder that cannot be written to.
    """
    chosen = _chosen(options.only)
    results = load.results(options.runs)
    n_drawn = 0
    for name, module in chosen.items():
        found = read_by(module, results)
        if absent := missing(module, "NEEDS", found):
            OUTPUT.print(f"{name}: skipped; {load.command(absent[0], options.runs)} makes the results that it needs.")
            continue
        for other in missing(module, "WANTS", found):
            OUTPUT.print(f"{name}: drawn without {other}, which {load.command(other, options.runs)} makes.")
        claim, figure = module.draw(found)
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


def read_by(module: ModuleType, results: Results) -> Mapping[str, Any]:
    """Return what a figure reads, by name: experiments, experiments and studies, sweeps, or the screen study."""
    if module in OF_STUDIES:
        return results.experiments | results.studies
    if module in OF_SCREEN:
        return results.screens
    return results.sweeps if module in OF_SWEEPS else results.experiments


def missing(module: ModuleType, kind: str, found: Mapping[str, Any]) -> list[str]:
    """Return the names in a figure's NEEDS or WANTS that were not found."""
    return [name for name in getattr(module, kind, ()) if name not in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    options = tyro.cli(Options, prog="python -m paper_figs", args=arguments)
    try:
        return run(options)
    except InputError as error:
        ERRORS.print(f"error: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        ERRORS.print("interrupted: the pictures drawn so far are kept.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
