"""A new figure is one file: nothing else of the package is touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
NEW = """
from paper_figs import style
from paper_figs.interval import over_worlds
from paper_figs.reads import Read, Rows

READS = (
    Read("experiment", "my-own", (Rows("trace", ("step", "loss"), {"arm": ("top",)}),)),
    Read("study", "tiny", is_required=False),
)


def draw(results):
    runs = results["my-own"]
    loss = over_worlds(runs.by_world(lambda run: run.trace("top", "loss")["loss"]))
    claim = f"Loss falls from {loss.mean[0]:.1f} to {loss.mean[-1]:.1f} over {runs.n_worlds} worlds"
    figure, (axis,) = style.figure(claim, style.worlds(runs.n_worlds), 2.5, width=4.0)
    style.path(axis, runs.runs[0].trace("top", "step")["step"].astype(float), loss, style.LOOKS["top"])
    return claim, figure
"""


def _run(folder, *arguments):
    """Return what a command prints that runs in this folder's copy of the package."""
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_figure_is_added_by_one_file_which_is_found_drawn_and_collected_for(results, tmp_path):
    paths = [results.add("my-own", world) / "trace.parquet" for world in range(2)]
    for path in paths:
        pq.write_table(pq.read_table(path).append_column("loss", [[3.0, 1.0] * 5]), path)
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "paper_figs", copy / "paper_figs", ignore=shutil.ignore_patterns("results", "gallery"))
    (copy / "paper_figs" / "fig99_my_own.py").write_text(NEW)

    drawn = _run(copy, "paper_figs", "--runs", results.folder, "--out", tmp_path / "out", "--only", "fig99")
    assert drawn.startswith("fig99_my_own: drawn without tiny, which python -m empirical run tiny")
    assert drawn.rstrip().endswith("fig99_my_own.png  Loss falls from 3.0 to 1.0 over 2 worlds")
    assert (tmp_path / "out" / "fig99_my_own.png").stat().st_size > 10_000

    _run(copy, "paper_figs.collect", "--runs", results.folder, "--out", tmp_path / "kept")
    kept = pq.read_table(tmp_path / "kept" / paths[-1].relative_to(results.folder))
    assert kept.column_names == ["arm", "step", "loss"] and set(kept["arm"].to_pylist()) == {"top"}
    again = _run(copy, "paper_figs", "--runs", tmp_path / "kept", "--out", tmp_path / "out", "--only", "fig99")
    assert again == drawn.replace(str(results.folder), str(tmp_path / "kept"))


def test_figures_stand_in_the_order_of_their_numbers(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "paper_figs", copy / "paper_figs", ignore=shutil.ignore_patterns("results", "gallery"))
    for number in (100, 99):
        (copy / "paper_figs" / f"fig{number}_new.py").write_text("READS = ()")
    (copy / "probe.py").write_text("import json; from paper_figs.figures import FIGURES; print(json.dumps([*FIGURES]))")
    names = json.loads(_run(copy, "probe"))
    numbers = [int(name.partition("_")[0].removeprefix("fig")) for name in names]
    assert numbers == [*range(1, 19), 99, 100] and names[-2:] == ["fig99_new", "fig100_new"]
