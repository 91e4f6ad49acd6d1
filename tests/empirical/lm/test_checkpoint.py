import pytest
import torch

from empirical.lm import checkpoint
from empirical.lm.checkpoint import State


@pytest.fixture
def clock(monkeypatch):
    """Let time stand still but for what a test adds, and let keeping a state take as long as it says."""
    now = {"seconds": 1000.0, "cost": 0.0}
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now["seconds"])

    def kept(path, write):
        now["seconds"] += now["cost"]

    monkeypatch.setattr(checkpoint.runs, "replace_file", kept)
    return now


def _state(tmp_path, every) -> State:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    state = State(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), tmp_path / "c.pt", every)
    state._kept_at = checkpoint.time.monotonic()
    return state


def test_it_is_due_every_so_many_steps_but_not_at_the_end(clock, tmp_path):
    state = _state(tmp_path, 3)
    assert [step for step in range(1, 10) if state.is_due(step, last=9)] == [3, 6]


def test_it_is_due_when_patience_is_out_at_the_end_too_and_then_not_before_it_is_again(clock, tmp_path):
    state = _state(tmp_path, 1000)
    clock["seconds"] += checkpoint.PATIENCE
    assert not state.is_due(1, last=9)
    clock["seconds"] += 1
    assert state.is_due(1, last=9) and state.is_due(9, last=9)
    state.save(1, None)
    assert not state.is_due(2, last=9)


def test_what_takes_long_to_keep_is_kept_more_seldom(clock, tmp_path):
    state = _state(tmp_path, 1000)
    clock["cost"] = 10.0
    state.save(1, None)
    clock["seconds"] += checkpoint.PATIENCE + 1
    assert not state.is_due(2, last=9)
    clock["seconds"] += 10 / checkpoint.SHARE - checkpoint.PATIENCE
    assert state.is_due(2, last=9)
