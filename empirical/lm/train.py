"""The training loop of finetuning: its steps, what is recorded between them, and an interrupted run goes on exactly.

Checkpoints hold weights, optimizer, schedule and random states. Whatever else changes the loop is a `Hook`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from core.errors import InputError
from empirical import processes
from empirical.lm import checkpoint, compiled, hook, sharded
from empirical.lm.cost import Meter
from empirical.lm.hook import Hook
from empirical.lm.order import batch_rows, in_memory, n_steps
from empirical.lm.prompts import Encoded
from empirical.lm.step import precision, take_step
from empirical.lm.train_config import TrainConfig


class Diverged(Exception):
    """The loss is no longer a number."""


def fit(
    model: Any,
    examples: Sequence[Encoded],
    config: TrainConfig,
    *,
    learning_rate: float,
    pad: int,
    seed: int,
    work: Path,
    evaluate: Callable[[Any], dict[str, float]],
    hooks: Sequence[Hook] = (),
    progress: Callable[[str, float], None] = lambda doing, share: None,
    is_mixed: bool = False,
    meter: Meter | None = None,
) -> list[dict[str, Any]]:
    """Train the model in place on prompt → completion, and return the trace, its start included.

    The losses of the trace are those of the answers alone, whatever hooks add.

    Args:
        is_mixed: Compute in bfloat16 (autocast); weights, their gradients and AdamW's moments stay as they are.
        work: Folder of the checkpoint; it is read if it holds one, and left for the caller to remove.
        evaluate: Measured at each recorded step, beside the loss.
        hooks: What remedies change, in this order.
        meter: Told of each step that is taken now, of none that a checkpoint holds.

    Raises:
        Diverged: the loss is not finite.
        InputError: the layers cannot be compiled, or TensorBoard is not installed, and it is asked for.
    """
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    lengths, last = [len(example.tokens) for example in examples], n_steps(config, len(examples))
    shares = sharded.Sharded(model, is_mixed=is_mixed) if config.shard else None
    config = in_memory(config, model, examples)
    optimizer, schedule = _optimizer(model, config, learning_rate, last)
    state = checkpoint.State(model, optimizer, schedule, work / "checkpoint.pt", config.checkpoint_every)
    _seed_dropout(seed)
    measured = partial(_measured, model, evaluate, hooks, is_mixed)
    start, trace = _resume(state, hooks) or (0, [measured(0)])
    layers = compiled.Layers(model) if config.compile else nullcontext()
    recorded = {round(last * (i + 1) / config.n_records) for i in range(config.n_records)}
    with _board(config, work) as tell:
        for step in range(start, last):
            rows = batch_rows(lengths, config, step, seed=seed)
            drawn = hook.drawn(hooks, step, [examples[row] for row in rows])
            started = time.perf_counter()
            with layers:
                loss = take_step(model, optimizer, drawn, config, pad, hooks, is_mixed)
            if meter:
                meter.step(model, drawn, time.perf_counter() - started, torch.bfloat16 if is_mixed else model.dtype)
            if not math.isfinite(loss):
                _gather(shares, optimizer)
                raise Diverged(f"step {step + 1}")
            schedule.step()
            tell("loss", loss, step + 1)
            if step + 1 in recorded:
                trace.append({"loss": loss} | measured(step + 1))
            if state.is_due(step + 1, last=last):
                state.save(step + 1, {"trace": trace, "hooks": [one.state() for one in hooks]})
            progress(f"loss {loss:.2f}", (step + 1) / last)
    _gather(shares, optimizer)
    for one in hooks:
        one.end()
    model.eval()
    return trace


def _optimizer(
    model: torch.nn.Module, config: TrainConfig, learning_rate: float, last: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Return what moves the weights that are trained, and the schedule of its rate over so many steps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_fused = trained[0].device.type in ("cpu", "cuda")  # one pass over weights and moments, where PyTorch has it
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=config.weight_decay, fused=is_fused)
    return optimizer, get_scheduler(config.schedule, optimizer, round(config.warmup * last), last)


def _seed_dropout(seed: int) -> None:
    """Seed dropout, other in each process; after an adapter was initialised, so that arms and processes begin alike."""
    other = int(np.random.default_rng([seed, 14, processes.number()]).integers(2**32))
    torch.manual_seed(seed if processes.is_first() else other)


def _measured(
    model: Any, evaluate: Callable[[Any], dict[str, float]], hooks: Sequence[Hook], is_mixed: bool, step: int
) -> dict[str, Any]:
    """Return what is measured at a recorded step, once the hooks have seen it."""
    with precision(next(model.parameters()).device, is_mixed):
        for one in hooks:
            one.record(step)
        return {"step": step} | evaluate(model)


def _resume(state: checkpoint.State, hooks: Sequence[Hook]) -> tuple[int, list[dict[str, Any]]] | None:
    """Set model and hooks to the checkpoint, if there is one, and return its step and trace."""
    if (found := state.resume()) is None:
        return None
    step, record = found
    for one, kept in zip(hooks, record["hooks"], strict=True):
        one.resume(kept)
    return step, record["trace"]


def _gather(shares: sharded.Sharded | None, optimizer: torch.optim.Optimizer) -> None:
    """Let each process hold all of a model that was shared out."""
    if shares:
        optimizer.state.clear()  # room for the whole weights
        shares.gather()


@contextmanager
def _board(config: TrainConfig, work: Path) -> Iterator[Callable[[str, float, int], object]]:
    """Give what tells TensorBoard a number, or nobody where it is not asked for."""
    if not (config.tensorboard and processes.is_first()):
        yield lambda name, value, step: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--finetune.train.tensorboard needs the package tensorboard.\nInstall it, or leave the flag."
        ) from error
    with SummaryWriter(str(work / "tensorboard")) as board:
        yield board.add_scalar
