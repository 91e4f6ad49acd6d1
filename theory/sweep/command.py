"""python -m theory sweep NAME: many configs, resumable, on this machine or a cluster."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from core.console import ERRORS, OUTPUT, progress
from core.errors import InputError
from theory import design, experiments
from theory.design import Design
from theory.experiments import EXPERIMENTS, SWEEPS
from theory.sweep import cluster, runner, tables, units


@dataclass(frozen=True)
class Sweep:
    """Many configs, as a grid or a random design over any settings, with every seed; finished parts are kept.

    A named sweep brings its own axes (python -m theory list). With --grid it is yours: any NAME, over the settings of
    --base. Axes are NAME=VALUES by dotted name: facts.popularity_exponent=0.6:1.6:9 (nine points),
    pretrain.steps=500:16000:6:log (in equal ratios), pretrain.steps=500,1000,2000 (a list). Several processes on one
    folder divide the work.
    """

    name: tyro.conf.Positional[str]
    """A named sweep, or with --grid the name of a new one."""
    grid: tuple[str, ...] = ()
    """Axes, in place of the named sweep's own; for a random design LOW:HIGH, LOW:HIGH:log, or a list."""
    base: str | None = None
    """The experiment whose settings hold wherever no axis does (`paper`, or the named sweep's)."""
    design: Literal["grid", "random", "lhs", "sobol"] = "grid"
    """Every combination of the axes; or points drawn at random, as a Latin hypercube, or as a Sobol sequence."""
    samples: int = 256
    """Configs of a random design."""
    design_seed: int = 0
    """Seed of a random design."""
    arms: tuple[str, ...] = ()
    """Which of top, bottom, whole, random and mixture to finetune; none given: the named sweep's, or the first four."""
    seeds: int | None = None
    """Replications of every config, each with its own world, split and batches (8, or the named sweep's number)."""
    path: Annotated[Path | None, tyro.conf.arg(name="facts.path")] = None
    """The table of facts, for a base that needs one."""
    out: Path = Path("runs")
    """Folder of results: OUT/theory/NAME/{part-*.parquet, table.parquet, grid.json}."""
    engine: Literal["local", "ray"] = "local"
    """This machine's devices, or a Ray cluster (extra `cluster`): that of RAY_ADDRESS, or one on this machine."""
    dry_run: bool = False
    """Print how large the sweep is, and stop."""

    def __call__(self) -> int:
        named = SWEEPS.get(self.name)
        if named is None and not self.grid:
            raise InputError(
                f"no sweep {self.name!r}.{_nearest(self.name, SWEEPS)}\nName axes with --grid for a new one."
            )
        named = named or experiments.Sweep(self.name)
        chosen = self._design(named)
        arms, seeds = self.arms or named.arms, named.seeds if self.seeds is None else self.seeds
        n_units = len(chosen.configs) * seeds
        if self.dry_run:
            size = units.estimate_bytes(n_units, len(arms) + 1) / 1e6
            OUTPUT.print(f"{len(chosen.configs):,} configs × {seeds} seeds = {n_units:,} units; at most {size:,.1f} MB")
            return 0
        options = {"seeds": seeds, "arms": arms, "out": self.out, "tell": ERRORS.print}
        with cluster.engine(self.engine) as engine, progress(self.name, n_units) as tell:
            summary = runner.run(self.name, chosen, engine=engine, progress=tell, **options)
        tables.print_sweep(self.name, summary, chosen.axes, OUTPUT)
        return 0

    def _design(self, named: experiments.Sweep) -> Design:
        base = named.base
        if self.base is not None:
            if self.base not in EXPERIMENTS:
                raise InputError(f"--base {self.base}: no such experiment.{_nearest(self.base, EXPERIMENTS)}")
            base = EXPERIMENTS[self.base][1]
        experiments.check_table(self.base, self.path)
        if self.path is not None:
            base = replace(base, facts=replace(base.facts, path=self.path))
        if not self.grid:
            return replace(named, base=base).design()
        if self.design == "grid":
            return design.grid(base, self.grid)
        return design.sample(base, self.grid, method=self.design, n=self.samples, seed=self.design_seed)


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""
