"""The benchmark's tables and its JSON file."""

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import roofline
from core.errors import InputError

ONE, MANY = "table", "table_worlds"
"""The simulator's rows: one world, and several trained together."""
NAMES = ("program", "design", "stage", "bound by")
"""Columns of tables that hold text."""


class Row(NamedTuple):
    """What was measured of a contestant."""

    title: str
    n_worlds: int
    n_steps: int
    rates: list[float]
    """Steps per second, of all worlds together, by repeat."""


class Size(NamedTuple):
    """What was measured at one number of subjects."""

    n_subjects: int
    rows: dict[str, Row]
    needed: roofline.Work
    """The work that one step needs."""
    machine: roofline.Machine

    @property
    def limit(self) -> roofline.Limit:
        """The bound on steps per second."""
        return roofline.limit(self.needed, self.machine)

    def times_faster(self, ours: str, other: str) -> float:
        """Return the ratio of the median rates."""
        return median(self.rows[ours].rates) / median(self.rows[other].rates)

    def roofline_share(self) -> float:
        """Return the share of the limit that the simulator reaches on all cores, in its best repeat."""
        return max(self.rows[MANY].rates) / self.limit.overlapped


def describe_machine(device: str, n_cores: int) -> dict[str, Any]:
    """Return processor, cores, load and versions."""
    names = [line.split(":")[1].strip() for line in _processor_lines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": n_cores,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "system": platform.platform(),
        "versions": {name: version(name) for name in ("jax", "numpy", "torch")} | {"python": platform.python_version()},
        "load_before": os.getloadavg(),
    }


def show(sizes: list[Size], machine: dict[str, Any], memory: dict[str, Any] | None) -> None:
    """Print the tables."""
    out = console()
    out.print(_speed_table(sizes), _SPEED_NOTE, "", _limit_table(sizes), _LIMIT_NOTE, "")
    if memory:
        what = {"stages": "pretraining and finetuning", "experiment": "python -m theory run paper"}[memory["what"]]
        peak = f"{memory['peak_bytes'] / 1e9:.2f} GB at most, {memory['seconds']:.0f} s"
        out.print(f"Memory with {memory['n_subjects']:,} subjects, {what}: {peak}")
    show_load(out, machine)


def console() -> Console:
    """Return where tables are printed: a terminal, or a file in which no terminal's width limits them."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)


def show_load(out: Console, machine: dict[str, Any]) -> None:
    """Print the machine and how busy it was."""
    loads = " → ".join(f"{machine[key][0]:.1f}" for key in ("load_before", "load_after"))
    where = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    out.print(f"{where}, {machine['cores']} cores. Load {loads}: above the cores' number, figures are noisy.")


_SPEED_NOTE = """\
Median of the repeats; compilation and warm-up are not counted. PyTorch's facts are drawn before its clock starts, the \
simulator's while it runs. × one, × several: how many times faster the simulator is, one world or several together."""

_LIMIT_NOTE = """\
Most steps/s: what a step must compute and move, over the highest rates found on all cores; both at once, or in turn. \
Share: the best repeat of several worlds over the first of them. Step time: one world's, over the smallest size's."""


def write(path: Path, sizes: list[Size], others: dict[str, Any]) -> None:
    """Write every figure as JSON; InputError if the file cannot be written."""
    write_json(path, others | {"sizes": [_to_json(size, sizes[0]) for size in sizes]})


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures; InputError if the file cannot be written."""
    try:
        path.write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--out {path}: {error.strerror}.") from error


def _processor_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _step_time(size: Size, smallest: Size) -> float:
    return median(smallest.rows[ONE].rates) / median(size.rows[ONE].rates)


def _speed_table(sizes: list[Size]) -> Table:
    rows = table("Pretraining", "subjects", "program", "worlds", "steps", "steps/s", "min–max", "× one", "× several")
    for size in sizes:
        for name, (title, n_worlds, n_steps, rates) in size.rows.items():
            is_ours = name in (ONE, MANY)
            times = ("", "") if is_ours else (f"{size.times_faster(ours, name):.1f}" for ours in (ONE, MANY))
            low, middle, high = (
                f"{f(rates):,.0f}" if f(rates) >= 100 else f"{f(rates):.2g}" for f in (min, median, max)
            )
            subjects = f"{size.n_subjects:,}" if name == ONE else ""
            rows.add_row(subjects, title, str(n_worlds), f"{n_steps:,}", middle, f"{low}–{high}", *times)
        rows.add_section()
    return rows


def _limit_table(sizes: list[Size]) -> Table:
    rates = ("exp/s", "bytes/s")
    rows = table("Limits", "subjects", *rates, "bound by", "most steps/s", "in turn", "share", "step time")
    for size in sizes:
        fastest = [
            f"{max(found.values()) / 1e9:.3g}e9 ({max(found, key=found.__getitem__)})"
            for found in (size.machine.exponentials, size.machine.bandwidth)
        ]
        bounds = (size.limit.bound_by, f"{size.limit.overlapped:,.0f}", f"{size.limit.in_turn:,.0f}")
        reached = (f"{size.roofline_share():.0%}", f"{_step_time(size, sizes[0]):.2f}")
        rows.add_row(f"{size.n_subjects:,}", *fastest, *bounds, *reached)
    return rows


def table(title: str, *columns: str) -> Table:
    """Return an empty table; the columns are of numbers, but for those of names."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, justify="left" if column in NAMES else "right", no_wrap=True)
    return made


def _to_json(size: Size, smallest: Size) -> dict[str, Any]:
    others = [name for name in size.rows if name not in (ONE, MANY)]
    return {
        "n_subjects": size.n_subjects,
        "rows": {name: row._asdict() | {"median": median(row.rates)} for name, row in size.rows.items()},
        "times_faster": {ours: {name: size.times_faster(ours, name) for name in others} for ours in (ONE, MANY)},
        "step_time_over_smallest": _step_time(size, smallest),
        "needed_by_a_step": asdict(size.needed),
        "exponentials_per_second": size.machine.exponentials,
        "bytes_per_second": size.machine.bandwidth,
        "roofline": size.limit._asdict() | {"share": size.roofline_share()},
    }
