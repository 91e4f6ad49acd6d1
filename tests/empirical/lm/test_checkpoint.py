"""When a training's state is kept, that it is whole, and that none is gone on with that is not this training's."""

import errno
from typing import Any, cast

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR

from core.errors import InputError
from empirical.lm import checkpoint
from empirical.lm.checkpoint import State


@pytest.fixture
def clock(monkeypatch):
    """Let time stand still but for what a test adds, and let keeping a state take as long as it says."""
    now = {"seconds": 1000.0, "cost": 0.0}
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now["seconds"])

    def kept(path, write):
        now["seconds"] += now["cost"]

    monkeypatch.setattr(checkpoint.writing, "replace_file", kept)
    return now


def _state(tmp_path, every) -> State:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    state = State(model, optimizer, ConstantLR(optimizer), tmp_path / "c.pt", every)
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


def trained(tmp_path, *sizes, dropout=0.0) -> State:
    """Return the state of a small model after one step."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)]
    model = torch.nn.Sequential(*layers, torch.nn.Dropout(dropout))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model(torch.ones(1, sizes[0])).sum().backward()
    optimizer.step()
    return State(model, optimizer, ConstantLR(optimizer), tmp_path / "work" / "checkpoint.pt", 1)


def damaged(state, kind):
    path = state.path
    state.save(3, {})
    whole, stored = path.read_bytes(), torch.load(path, weights_only=True)
    weights, moments = stored["weights"], stored["moments"]
    first, *_ = weights
    changes = {
        "without weights": {"weights": {}},
        "with a weight left out": {"weights": {name: value for name, value in weights.items() if name != first}},
        "of another type": {"weights": {name: value.double() for name, value in weights.items()}},
        "without moments": {"moments": moments | {"state": {}}},
        "with moments of other weights": {"moments": moments | {"param_groups": [{"params": ["other"]}]}},
    }
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "other":
        torch.save({"step": 3}, path)
    else:
        torch.save(stored | changes[kind], path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        *((kind, "is empty or damaged") for kind in ("empty", "cut", "text")),
        ("other", "is no checkpoint of a training"),
        ("without weights", "does not hold 4 of 4 trained weights, 0.bias among them"),
        ("with a weight left out", "does not hold 1 of 4 trained weights, 0.weight among them"),
        ("of another type", "0.weight is 3 × 2 in float64 and 3 × 2 in float32"),
        ("without moments", "does not hold the moments"),
        ("with moments of other weights", "does not hold the moments"),
    ],
)
def test_a_checkpoint_that_does_not_cover_what_is_trained_is_refused_and_changes_nothing(kind, told, tmp_path):
    state = trained(tmp_path, 2, 3, 4)
    damaged(state, kind)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    with pytest.raises(InputError, match=f"checkpoint.pt .*{told}(.|\n)*remove .*work to begin anew"):
        state.resume()
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ((2, 5, 4), "0.weight is 3 × 2 in float32 and 5 × 2"),
        ((2, 3), "holds 2 weights that are not"),
        ((2, 3, 4, 4), "does not hold 2 of 6 trained weights"),
    ],
)
def test_another_models_checkpoint_is_refused(sizes, told, tmp_path):
    trained(tmp_path, 2, 3, 4).save(3, {})
    with pytest.raises(InputError, match=told):
        trained(tmp_path, *sizes).resume()


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    state = trained(tmp_path, 2, 3, 4)
    state.save(3, {"loss": 1.0})
    whole, save = state.path.read_bytes(), torch.save

    class Full:
        def __init__(self, file):
            self.file, self.left = file, len(whole) // 2

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    monkeypatch.setattr(torch, "save", lambda kept, file: save(kept, cast(Any, Full(file))))
    with pytest.raises(InputError, match=r"cannot write .*checkpoint.pt: No space left on device(.|\n)*Free space"):
        state.save(6, {"loss": 0.5})
    assert [path.name for path in state.path.parent.iterdir()] == ["checkpoint.pt"]
    assert state.path.read_bytes() == whole and state.resume() == (3, {"loss": 1.0})


def test_a_training_by_two_is_gone_on_with_by_one_where_nothing_is_drawn(tmp_path):
    for dropout in (0.0, 0.1):
        state = trained(tmp_path, 2, 3, dropout=dropout)
        state.save(3, {})
        stored = torch.load(state.path, weights_only=True)
        torch.save(stored | {"others": [{"random": stored["random"]}]}, state.path)
        if not dropout:
            assert state.resume() == (3, {})
            continue
        with pytest.raises(InputError, match="by 2 processes, and this is 1: dropout is drawn by each(.|\n)*Start 2"):
            state.resume()
