from dataclasses import replace

import pytest

from core import columns, runs
from core.errors import InputError
from empirical.experiments import SCREEN
from empirical.screen import command, design, table
from empirical.screen.command import Screen

METRICS = dict.fromkeys(columns.MEASURES, 0.5) | {"n": 4}
SMALL = replace(
    SCREEN,
    pretrain=replace(SCREEN.pretrain, d_model=16, layers=1, heads=2, key_value_heads=2, vocabulary=400, epochs=0.01),
    finetune=replace(
        SCREEN.finetune, learning_rates=(1e-3,), train=replace(SCREEN.finetune.train, epochs=1, batch_size=128)
    ),
    evaluate=replace(SCREEN.evaluate, max_new_tokens=2, batch_size=320),
)


def _rows(job):
    report = {"metrics": dict.fromkeys(("base", *design.ARMS), METRICS)}
    run = runs.Run(job.out, report)
    return [
        row for k in job.seeds for row in table._rows(job.variant, "lm", {"pretrain": job.pretrain, "seed": k}, run)
    ]


def test_a_dry_run_names_every_base_model_and_runs_none(tmp_path, capsys):
    assert Screen(parts=("factorial",), out=tmp_path, dry_run=True)() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 32 and all("3 finetuning seeds" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_what_the_table_holds_is_not_run_again_and_an_interruption_loses_no_base_model(tmp_path, monkeypatch, capsys):
    started = []

    def interrupted(job):
        started.append((job.variant.name, job.pretrain))
        if len(started) == 3:
            raise KeyboardInterrupt
        return _rows(job)

    monkeypatch.setattr(command, "_run", interrupted)
    asked = Screen(parts=("factorial",), seeds=2, toy=False, processes=1, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        asked()
    assert len(table.read(tmp_path)) == 2 * 2 * 4
    assert asked() == 0
    assert len(started) == 32 + 1 and started[2] == started[3]
    assert len(table.read(tmp_path)) == 32 * 2 * 4
    assert "the factorial part: top − bottom, by world" in capsys.readouterr().out


def test_more_seeds_run_what_is_missing_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "_run", lambda job: seen.append(job.seeds) or _rows(job))
    Screen(parts=("factorial",), pretrain_seeds=1, seeds=1, toy=False, processes=1, out=tmp_path)()
    Screen(parts=("factorial",), pretrain_seeds=1, seeds=3, toy=False, processes=1, out=tmp_path)()
    assert set(seen[:16]) == {(0,)} and set(seen[16:]) == {(1, 2)}


@pytest.mark.parametrize("name", ["pretrain_seeds", "seeds", "processes"])
def test_a_count_below_one_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is 0"):
        replace(Screen(out=tmp_path), **{name: 0})()


def test_two_processes_pretrain_finetune_and_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(design, "N_FACTS", 120)
    chosen = design.variants(SMALL, ["factorial"])[:2]
    monkeypatch.setattr(design, "variants", lambda config, parts: chosen)
    asked = Screen(config=SMALL, parts=("factorial",), pretrain_seeds=1, seeds=1, toy=False, processes=2, out=tmp_path)
    assert asked() == 0
    rows = table.read(tmp_path)
    assert {(row["world"], row["arm"]) for row in rows} == {
        (one.name, arm) for one in chosen for arm in ("base", *design.ARMS)
    }
    assert all(row["learning_rate"] == 1e-3 for row in rows if row["arm"] != "base")
    assert all(row["n"] == 0.4 * design.N_FACTS for row in rows)
