"""The sweep benchmark's tables and its JSON file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks import designs, report, roofline, torch_loop
from theory.finetune import FinetuneConfig
from theory.pretrain import PretrainConfig

TITLES = {
    **{f"torch_{name}": loop.title for name, loop in torch_loop.LOOPS.items()},
    "jax_scan_compiled": "JAX, a jitted scan, compiled for each",
    "jax_scan": "JAX, a jitted scan, compilation left out",
    "jax_dense": "JAX, autograd, dense model",
}
KINDS = {"apart": "no pretraining shared", "shared": "lengths of pretraining, shared"}

_NOTE = """\
A config-step is one SGD step (256 facts) of one config: of its pretraining, or of finetuning one of its four arms. \
Counted: what running the configs one after another takes, and all programs are rated by it; done: what the sweep \
computes, where one pretraining serves all its shorter ones. The sweep's own row has everything in it, from sampling \
the worlds to the table on disk, R5's forecast and the measurements included; the row of steps has its two trainings. \
The others' have steps alone, timed on {sampled} of the configs, none but the row that says so with compilation; the \
dense model's were timed in pretraining. Median of the repeats, min–max; × : how many times faster the sweep is."""
_LIMIT_NOTE = """\
Share of the machine's limit (exponentials and bytes of the steps done, at the highest rates found on all cores): of \
the whole sweep, and of its trainings alone, in the best repeat."""
_GROWTH_NOTE = """\
Each in a process of its own; the first run compiles, again does not. Per config: what the peak grew by, beside what \
the compiled programs take for a world (arguments, results, what lies between)."""


@dataclass
class Measured:
    """One design and what it took, by repeat."""

    kind: designs.Kind
    n_configs: int
    n_outputs: int
    counts: designs.Counts
    first: designs.Timed
    """The first call, compilation included."""
    runs: list[designs.Timed] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    """Seconds for all of the design, one config after another, by contestant."""

    @property
    def whole(self) -> list[float]:
        """Seconds of the sweep with everything in it."""
        return [run.seconds for run in self.runs]

    @property
    def training(self) -> list[float]:
        """Seconds of the sweep's trainings."""
        return [run.training for run in self.runs]

    @property
    def needed(self) -> roofline.Work:
        """What the steps done cannot do without."""
        stored = roofline.work(PretrainConfig.batch_size, self.n_outputs)
        asked = roofline.question_work(FinetuneConfig.batch_size, self.n_outputs)
        n_stored, n_asked = self.counts.pretrain_done, self.counts.finetune
        return roofline.Work(
            n_stored * stored.exponentials + n_asked * asked.exponentials,
            n_stored * stored.bytes + n_asked * asked.bytes,
        )

    def share(self, seconds: list[float], machine: roofline.Machine) -> float:
        """Return the share of the machine's limit that the best repeat reached."""
        return 1 / roofline.limit(self.needed, machine).overlapped / min(seconds)


def show(
    measured: list[Measured],
    grown: list[dict[str, Any]],
    machine: roofline.Machine,
    described: dict[str, Any],
    n_sampled: int,
) -> None:
    """Print the tables."""
    console = report.console()
    for one in measured:
        console.print(_speed_table(one))
    console.print(_NOTE.format(sampled=n_sampled), "")
    console.print(_limit_table(measured, machine), _LIMIT_NOTE, "")
    if grown:
        console.print(_growth_table(grown), _GROWTH_NOTE, "")
    report.show_load(console, described)


def write(path: Path, measured: list[Measured], machine: roofline.Machine, others: dict[str, Any]) -> None:
    """Write every figure as JSON; InputError if the file cannot be written."""
    whole = others | {"limits": asdict(machine), "designs": [_to_json(one, machine) for one in measured]}
    report.write_json(path, whole)


def _speed_table(of: Measured) -> Table:
    title = f"{of.n_configs:,} configs, {KINDS[of.kind]}: {of.counts.counted:,} config-steps counted"
    title += f", {of.counts.done:,} done" if of.counts.done != of.counts.counted else ""
    table = report.table(title, "program", "seconds", "config-steps/s", "min–max", "× whole", "× steps")
    table.add_row("sweep, everything", *_rates(of, of.whole))
    if of.counts.done != of.counts.counted:
        table.add_row("  steps done", "", *_rates(of, of.whole, of.counts.done)[1:])
    table.add_row("sweep, its trainings", *_rates(of, of.training))
    table.add_row("sweep, the first time, with compilation", *_rates(of, [of.first.seconds]))
    for name, seconds in of.others.items():
        times = (f"{median(seconds) / median(ours):.1f}" for ours in (of.whole, of.training))
        table.add_row(TITLES[name], *_rates(of, seconds), *times)
    return table


def _rates(of: Measured, seconds: list[float], n_steps: int | None = None) -> tuple[str, str, str]:
    """Return seconds, steps per second, and their range."""
    n_steps = n_steps or of.counts.counted
    low, high = n_steps / max(seconds), n_steps / min(seconds)
    return f"{median(seconds):,.1f}", f"{n_steps / median(seconds):,.0f}", f"{low:,.0f}–{high:,.0f}"


def _limit_table(measured: list[Measured], machine: roofline.Machine) -> Table:
    stages = designs.STAGES
    table = report.table(
        "Where the time goes, and limits", "design", "s", *stages, "rest", "bound by", "whole", "steps"
    )
    for one in measured:
        middle = {stage: median(run.stages[stage] for run in one.runs) for stage in stages}
        rest = median(run.seconds - sum(run.stages.values()) for run in one.runs)
        seconds = (f"{value:.2f}" for value in (median(one.whole), *middle.values(), rest))
        shares = (f"{one.share(seconds, machine):.0%}" for seconds in (one.whole, one.training))
        table.add_row(one.kind, *seconds, roofline.limit(one.needed, machine).bound_by, *shares)
    return table


def _growth_table(grown: list[dict[str, Any]]) -> Table:
    columns = ("first, s", "again, s", "steps/s", "compiled", "peak", "per config", "per world", "on device")
    table = report.table("Time and memory by number of configs", "configs", *columns)
    for one in grown:
        seconds = one["again"] or one["first"]
        grew = (one["peak_bytes"] - one["before_bytes"]) / one["n_configs"]
        table.add_row(
            f"{one['n_configs']:,}",
            f"{one['first']:.1f}",
            f"{one['again']:.1f}" if one["again"] else "–",
            f"{one['steps'] / seconds:,.0f}",
            str(one["compilations"]),
            f"{one['peak_bytes'] / 1e6:,.0f} MB",
            f"{grew / 1e6:,.2f} MB",
            f"{one['bytes_per_world'] / 1e6:,.2f} MB",
            f"{one['device_peak_bytes'] / 1e6:,.0f} MB" if one["device_peak_bytes"] else "–",
        )
    return table


def _to_json(of: Measured, machine: roofline.Machine) -> dict[str, Any]:
    contestants = {"whole": of.whole, "training": of.training, "first": [of.first.seconds], **of.others}
    return {
        "design": of.kind,
        "n_configs": of.n_configs,
        "counts": of.counts._asdict() | {"counted": of.counts.counted, "done": of.counts.done},
        "seconds": contestants,
        "counted_per_second": {name: of.counts.counted / median(seconds) for name, seconds in contestants.items()},
        "done_per_second": {name: of.counts.done / median(contestants[name]) for name in ("whole", "training")},
        "times_faster": {name: median(seconds) / median(of.whole) for name, seconds in of.others.items()},
        "stages": [run.stages for run in of.runs],
        "needed": asdict(of.needed),
        "roofline": roofline.limit(of.needed, machine)._asdict()
        | {"share_whole": of.share(of.whole, machine), "share_training": of.share(of.training, machine)},
    }
