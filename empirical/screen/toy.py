"""The toy in the worlds that language models are pretrained on: the same facts, told in the same proportions.

It runs as `python -m theory` in a process of its own, for the flows share no framework. Names and formats mean nothing
to it: what it sees of a world is which facts share a subject, a relation or an answer, and how often each is told.
"""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core import config_json, runs, writing
from core.errors import InputError
from core.runs import Run
from empirical.worlds import world
from empirical.worlds.world import WorldConfig

DRAWS = 128
"""Pretraining draws per fact on average, as many as in the toy's default world."""
BATCH_SIZE = 256
"""The toy's default."""


def directory(config: WorldConfig, label: str, out: Path, *, seed: int) -> Path:
    """Return the folder of the toy's results in one world."""
    return out / "toy" / f"{label}-{config_json.config_hash(config)[:8]}-{seed}"


def run(config: WorldConfig, label: str, out: Path, *, seed: int) -> Run:
    """Return the toy's run in the world of this seed, made now unless it is there.

    Raises:
        InputError: the toy is not installed, or cannot run in this world.
    """
    folder = directory(config, label, out, seed=seed)
    if finished := runs.find_runs(folder, "theory", "paper"):
        return finished[0]
    world_told = world.build(config, seed=seed)
    table = folder / "world.parquet"
    writing.replace_file(table, lambda file: pq.write_table(pa.table(world.to_table(world_told)), file))
    background = config.background
    flags = {
        "--facts.path": table,
        "--facts.min-facts": 1,
        "--facts.background.size": background.size,
        "--facts.background.share": background.share,
        "--facts.background.skew": background.skew,
        "--pretrain.steps": round(DRAWS * len(world_told.exposures) / BATCH_SIZE),
        "--seed": seed,
        "--out": folder,
    }
    arguments = [str(part) for pair in flags.items() for part in pair]
    done = subprocess.run([sys.executable, "-m", "theory", "run", "paper", *arguments], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"the toy does not run in {label} ({reason}).\nInstall its extra, theory, or leave it out: --no-toy."
        )
    return runs.find_runs(folder, "theory", "paper")[0]
