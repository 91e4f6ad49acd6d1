"""python -m theory {run,select,sweep,deep,verify,compare,list}: parse and call."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from core import cli, former, report_tables, runs, writing
from core.console import ERRORS, OUTPUT, progress
from core.errors import InputError
from core.seeds import Seeds
from theory import runner, tables
from theory.command import Experiment, Selection
from theory.config import Config
from theory.deep import runner as deep_runner
from theory.deep.command import DeepExperiment
from theory.deep.runner import DEEP
from theory.engine import loop
from theory.experiments import EXPERIMENTS, SWEEPS
from theory.sweep.command import Sweep
from theory.verify import checks, verdicts

INTERRUPTED = "interrupted: finished runs are kept, and the same command goes on from there."
Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Verify:
    """Test every result, R1 to R9, on fresh worlds; exit 1 if any fails, or if default settings leave one undecided."""

    config: Annotated[Config, Flat] = field(default_factory=Config)
    seeds: int = checks.N_WORLDS
    """Fresh worlds, with seeds that no run uses by default."""
    out: Path = Path("runs")
    """Folder of results; the rows go to OUT/theory/verify/predictions.parquet."""
    overwrite: bool = False
    """Test again even if this code has tested this config."""

    def __call__(self) -> int:
        Seeds(self.seeds).cells()
        path = self.out / runner.FLOW / "verify"
        rows = None if self.overwrite else verdicts.read(path, self.config, self.seeds)
        done = "found done" if rows else "tested now"
        if not rows:
            writing.check_writable(self.out)
            with progress("verify", len(checks.CHECKS)) as tell:
                rows = checks.run(self.config, self.seeds, tell)
            verdicts.write(path, self.config, self.seeds, rows)
        report_tables.print_verdicts(rows, OUTPUT)
        n_failed = sum(row["verdict"] == "fails" for row in rows)
        OUTPUT.print(f"{n_failed or 'No'} row{'s' * (n_failed != 1)} failed ({done}). Rows: {path}", soft_wrap=True)
        unsettled = checks.unsettled(rows)
        must_decide = self.config == Config() and self.seeds >= checks.N_WORLDS
        if unsettled:
            hint = "default settings must decide all" if must_decide else "more --seeds or larger worlds may decide"
            OUTPUT.print(f"Undecided, or without a verdict: {', '.join(unsettled)}; {hint}.", soft_wrap=True)
        return int(n_failed > 0 or (must_decide and bool(unsettled)))


@dataclass(frozen=True)
class Compare:
    """Compare finished runs with the theory again, from their files alone."""

    experiments: tyro.conf.Positional[tuple[str, ...]] = ()
    """Their names; none for all that have finished runs."""
    out: Path = Path("runs")
    """Folder of results."""

    def __call__(self) -> int:
        finished = {run.report["experiment"] for run in runs.find_runs(self.out, runner.FLOW)}
        names = self.experiments or sorted(finished)
        if not names:
            raise InputError(f"no finished runs under {self.out}.\nRun: python -m theory run paper --out {self.out}")
        for name in names:
            rows = (deep_runner if name in DEEP else runner).write_predictions(name, self.out)
            found = runs.find_runs(self.out, runner.FLOW, name)
            tables.print_arms(name, found, OUTPUT)
            report_tables.print_crossed(name, found, OUTPUT)
            report_tables.print_shares(name, found, OUTPUT)
            report_tables.print_verdicts(rows, OUTPUT)
        return 0


@dataclass(frozen=True)
class List:
    """The named experiments, a sentence each."""

    def __call__(self) -> int:
        table = Table("experiment", "what it shows", box=None)
        for name, (sentence, _) in EXPERIMENTS.items():
            table.add_row(name, sentence)
        for name, sweep in SWEEPS.items():
            table.add_row(f"sweep {name}", sweep.sentence)
        for name, (sentence, _) in DEEP.items():
            table.add_row(f"deep {name}", sentence)
        OUTPUT.print(table)
        return 0


Command = (
    Annotated[Experiment, tyro.conf.subcommand("run")]
    | Annotated[Selection, tyro.conf.subcommand("select")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[DeepExperiment, tyro.conf.subcommand("deep")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 where a result fails, 2 for a mistake in the input, 130 for Ctrl-C."""
    return cli.main(
        Command,
        "theory",
        __doc__ or "",
        arguments=arguments,
        former=former.flags("theory") | former.flags("deep"),
        interrupted=INTERRUPTED,
        prepare=loop.use_all_cores,
    )


def script() -> int:
    """Run as an installed script: as `python -m theory` does."""
    _end_on_interrupt()
    return main()


def _end_on_interrupt() -> None:
    """Let Ctrl-C end the program within two seconds even inside a compiled loop, where Python cannot raise."""
    signals, on_signal = os.pipe()
    os.set_blocking(on_signal, False)
    signal.set_wakeup_fd(on_signal)

    def watch() -> None:
        while os.read(signals, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(2)
        ERRORS.show_cursor()
        ERRORS.print(INTERRUPTED)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(script())
