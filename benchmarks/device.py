"""Everything that is worth measuring on a device, one command after another, each in a process of its own.

What each wrote is kept, so that the same command goes on where it was interrupted or where a part failed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.table import Table

from benchmarks import theory
from core import writing
from core.console import ERRORS, OUTPUT, progress
from core.errors import InputError
from core.seeds import Cell
from theory import pipeline
from theory.config import Config
from theory.pipeline import Unit

FACTS = 100_000_000
"""Subjects of the largest world: its values take 32 GB, and pretraining holds them twice."""
N_CONFIGS = 4096
"""Configs of the largest sweep."""


@dataclass(frozen=True)
class Settings:
    """Run every benchmark, verify, a sweep of 4,096 configs and a world of 10⁸ subjects on a GPU, and say what came of
    each. A part that is there is not run again.
    """

    device: Literal["cpu", "cuda"] = "cuda"
    """Where all of it runs; cuda needs builds of both torch and jax for it."""
    subjects: int = FACTS
    """Subjects of the largest world; 10⁸ take a GPU of 139 GiB."""
    parts: tuple[str, ...] = ()
    """Names of parts, as the table has them; none for all."""
    quick: bool = False
    """Minutes on a processor, which show that all of it works: tiny sizes, whose figures mean nothing."""
    out: Path = Path("runs/device")
    """Folder of what each part wrote: NAME.json or NAME/, and NAME.log with what it printed."""


def run(settings: Settings) -> int:
    """Run what is left, print the table, and return 1 if a part failed.

    Raises:
        InputError: the device is not there, there is no such part, or the folder cannot be written.
    """
    theory.prepare(settings.device, None)
    all_parts = commands(settings)
    if unknown := sorted(set(settings.parts) - set(all_parts)):
        raise InputError(f"--parts: there is no {unknown[0]!r}; there are {', '.join(all_parts)}.")
    chosen = settings.parts or tuple(all_parts)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {settings.out}: {error.strerror}.\nName a folder that can be written.") from error
    with progress("device", len(chosen)) as tell:
        for name in chosen:
            tell(name, 0)
            if not _done(settings, name, all_parts[name]):
                _run(settings, name, all_parts[name])
            tell(name, 1)
    return _report(settings, {name: all_parts[name] for name in chosen})


def commands(settings: Settings) -> dict[str, list[str]]:
    """Return what `python -m` runs for each part."""
    out, device = settings.out, ["--device", settings.device]

    def benchmark(name: str, part: str, *flags: str) -> list[str]:
        return ["benchmarks", name, *flags, "--out", str(out / f"{part}.json")]

    small = ["--sizes", "1000", "--repeats", "1", "--steps", "50", "--memory", "none"] if settings.quick else []
    growth = ["--quick"] if settings.quick else ["--repeats", "1", "--scaling", "64", str(N_CONFIGS)]
    lm = ["--models", "tiny", "--questions", "8", "--steps", "3", "--repeats", "1"] if settings.quick else []
    n_subjects, n_steps = (2000, 200) if settings.quick else (settings.subjects, 200_000)
    seeds = ["--seeds", "2"] if settings.quick else []
    return {
        "repeated": ["benchmarks.device", settings.device, str(out / "repeated.json")],
        "verify": ["theory", "verify", *seeds, "--out", str(out / "verify")],
        "theory": benchmark("theory", "theory", *device, *small),
        "sweep": benchmark("sweep", "sweep", *device, *growth),
        "scale": benchmark("scale", "scale", *device, "--subjects", str(n_subjects), "--steps", str(n_steps)),
        "lm": benchmark("lm", "lm", *lm),
        "lm-long": benchmark("lm", "lm-long", "--words", "60", *lm),
        "lm-1024": benchmark("lm", "lm-1024", "--words", "900", "--parts", "finetuning", "--batch", "8", *lm),
    }


def _run(settings: Settings, name: str, command: Sequence[str]) -> None:
    """Run a part; its log says how it ended and what it took."""
    platform = {"JAX_PLATFORMS": settings.device}
    began = time.monotonic()
    with (settings.out / f"{name}.log").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "-m", *command], env=os.environ | platform, stdout=log, stderr=log, check=False
        ).returncode
    said = {"command": list(command), "code": code, "seconds": time.monotonic() - began}
    ended = json.dumps(said).encode() + b"\n"
    writing.replace_file(settings.out / f"{name}.done.json", lambda file: file.write(ended))
    if code:
        ERRORS.print(f"{name} ended with exit code {code}: {settings.out / name}.log", style="yellow", markup=False)


def _said(settings: Settings, name: str) -> dict[str, Any] | None:
    path = settings.out / f"{name}.done.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _done(settings: Settings, name: str, command: Sequence[str]) -> bool:
    """Return whether this very command has ended well."""
    said = _said(settings, name)
    return said is not None and said["code"] == 0 and said["command"] == list(command)


def _report(settings: Settings, parts: dict[str, list[str]]) -> int:
    table = Table("part", "exit code", "seconds", "command", title=str(jax.devices()[0].device_kind))
    for name, command in parts.items():
        said = _said(settings, name) or {"code": "not run", "seconds": 0.0}
        table.add_row(name, str(said["code"]), f"{said['seconds']:.0f}", "python -m " + " ".join(command))
    OUTPUT.print(table)
    OUTPUT.print(f"What each wrote and printed: {settings.out}", soft_wrap=True)
    return int(not all(_done(settings, *part) for part in parts.items()))


def repeated() -> dict[str, float | bool]:
    """Return how far two pretrainings of one world are apart: additions may come in another order each time."""
    config = Config()
    once, again = (pipeline.pretrained([Unit(config, Cell(0, 0, 0))], pipeline.Clock())[0].base for _ in range(2))
    pairs = list(zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True))
    return {
        "same_bits": all(np.array_equal(one, other) for one, other in pairs),
        "largest_difference": max(float(np.abs(one - other).max()) for one, other in pairs),
        "largest_value": max(float(np.abs(one).max()) for one, _ in pairs),
    }


if __name__ == "__main__":
    theory.prepare("cuda" if sys.argv[1] == "cuda" else "cpu", None)
    found = repeated()
    Path(sys.argv[2]).write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(found)
