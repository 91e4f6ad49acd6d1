"""Time and memory of one sweep in a process of its own, by its number of configs."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, Literal

import jax

from benchmarks import designs, memory
from core.errors import InputError
from theory.engine import batched, loop

LONG = 60.0
"""Seconds of a sweep above which it is not run a second time."""


def measure(size: designs.Size, device: Literal["cpu", "cuda"]) -> dict[str, Any]:
    """Return what a fresh process measured of a sweep of this size, its configs sharing nothing.

    Raises:
        InputError: that process failed.
    """
    command = [sys.executable, "-m", "benchmarks.growth", device, json.dumps(asdict(size))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it was killed, perhaps for memory"])[-1]
        raise InputError(f"--scaling: the sweep of {size.n_configs:,} configs failed ({reason}).\nLeave it out.")
    return json.loads(done.stdout)


def _measure_here(size: designs.Size) -> dict[str, Any]:
    """Return seconds, memory and compilations of a sweep; `again` is with all programs compiled, None if too long."""
    design = designs.build("apart", size)
    start = time.perf_counter()
    jax.devices()
    before = memory.peak()
    first = designs.run(design)
    found = {
        "n_configs": size.n_configs,
        "steps": designs.count(design.configs).counted,
        "first": first.seconds,
        "compilations": batched.PROCESS.compilations,
        "bytes_per_world": batched.PROCESS.bytes_per_world,
        "before_bytes": before,
        "peak_bytes": memory.peak(),
        "device_peak_bytes": memory.device_peak(),
    }
    again = designs.run(design).seconds if time.perf_counter() - start < LONG else None
    return found | {"again": again}


if __name__ == "__main__":
    if sys.argv[1] == "cpu":
        jax.config.update("jax_platforms", "cpu")
        loop.use_all_cores()
    print(json.dumps(_measure_here(designs.Size(**json.loads(sys.argv[2])))))
