"""The training loop of finetuning: the answer's tokens alone are scored, and an interrupted run goes on exactly.

Batches are a function of (seed, epoch) alone, never of what was drawn before, so that a resumed run sees the same ones;
checkpoints hold weights, optimizer, schedule and random states. Whatever else changes the loop is a `Hook`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional
from transformers import get_scheduler

from core.config_json import setting
from core.errors import InputError
from empirical import processes
from empirical.lm import batch, checkpoint, hook, logits, memory, packed, sharded
from empirical.lm.cost import Meter
from empirical.lm.hook import Hook
from empirical.lm.prompts import Encoded


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which steps a model is finetuned."""

    epochs: int = 6
    """Number of passes over the arm's facts."""
    steps: int | None = setting(None, is_later=True)
    """Number of optimizer steps, whatever the epochs. Not given: as many as those make."""
    batch_size: int = 32
    """Number of facts per step, over all devices."""
    micro_batch_size: int | None = None
    """Number of facts per forward pass of one device; gradients are accumulated. Not given: all facts of the step."""
    micro_batch_tokens: int | None = setting(None, is_later=True)
    """Number of tokens per forward pass of one device, padding included: where facts are long, it takes several. Not
    given: 16,384, or fewer where the free memory holds fewer."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warmup: float = 0.1
    """Share of the steps during which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_gradient_norm: float = 1.0
    """Norm to which gradients are clipped."""
    length_window: int = 4
    """Number of batches within which facts are sorted by length, so that there is little padding; 1: not sorted."""
    packing: bool = setting(False, is_later=True)
    """Read the facts of a forward pass in one row without padding, each attending to itself alone: worth it where
    lengths differ."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: it takes less memory and a third more time."""
    shard: bool = setting(False, is_later=True)
    """Share the model out over the processes that torchrun starts: of N each holds 1/N of weights, gradients and
    moments while it trains, and gathers a layer's weights when it computes with them. The numbers stay as they are."""
    checkpoint_every: int = 100
    """Number of steps between checkpoints. After two minutes there is one anyway, or as often as that takes a twentieth
    of the time; an interrupted training goes on from the last one."""
    n_records: int = 6
    """Number of points in the training trace, besides its start."""
    tensorboard: bool = False
    """Write the loss for TensorBoard too (needs the package tensorboard)."""


class Diverged(Exception):
    """The loss is no longer a number."""


def check(config: TrainConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for name in ("epochs", "batch_size", "length_window", "checkpoint_every", "n_records"):
        if (value := getattr(config, name)) < 1:
            raise InputError(f"--finetune.train.{name.replace('_', '-')} is {value}: it must be at least 1.")
    for name in ("steps", "micro_batch_size", "micro_batch_tokens"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise InputError(f"--finetune.train.{name.replace('_', '-')} is {value}: it must be at least 1.")
    if not 0 <= config.warmup < 1:
        raise InputError(f"--finetune.train.warmup is {config.warmup}: it must be at least 0 and below 1.")
    if config.weight_decay < 0 or config.max_gradient_norm <= 0:
        raise InputError("--finetune.train: weight-decay must be at least 0 and max-gradient-norm above 0.")
    if config.shard and processes.asked_for() == 1:
        raise InputError(
            "--finetune.train.shard shares a model out over several processes, and this is one.\n"
            "Start them with torchrun --nproc_per_node N -m empirical finetune ..., or leave the flag."
        )


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
    """
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    device = next(model.parameters()).device
    steps = n_steps(config, len(examples))
    shares = sharded.Sharded(model, is_mixed=is_mixed) if config.shard else None
    config = in_memory(config, model, examples)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_fused = device.type in ("cpu", "cuda")  # one pass over weights and moments, where PyTorch has it
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=config.weight_decay, fused=is_fused)
    schedule = get_scheduler(config.schedule, optimizer, round(config.warmup * steps), steps)
    state = checkpoint.State(model, optimizer, schedule, work / "checkpoint.pt", config.checkpoint_every)
    # Dropout, other in each process; after any adapter was initialised, so that arms and processes begin alike.
    torch.manual_seed(seed if processes.is_first() else _other_seed(seed, processes.number()))

    def record(step: int) -> dict[str, Any]:
        with _precision(device, is_mixed):
            return {"step": step} | _record(step, model, evaluate, hooks)

    start, trace = _resume(state, hooks) or (0, [record(0)])
    at = {round(steps * (i + 1) / config.n_records) for i in range(config.n_records)}
    board = _board(work) if config.tensorboard and processes.is_first() else None
    for step in range(start, steps):
        rows = batch_rows([len(example.tokens) for example in examples], config, step, seed=seed)
        drawn = hook.drawn(hooks, step, [examples[row] for row in rows])
        started = time.perf_counter()
        loss = _step(model, optimizer, drawn, config, pad, hooks, is_mixed)
        if meter:
            meter.step(model, drawn, time.perf_counter() - started, torch.bfloat16 if is_mixed else model.dtype)
        if not math.isfinite(loss):
            if shares:
                shares.gather()
            raise Diverged(f"step {step + 1}")
        schedule.step()
        if board:
            board.add_scalar("loss", loss, step + 1)
        if step + 1 in at:
            trace.append({"loss": loss} | record(step + 1))
        if state.is_due(step + 1, last=steps):
            state.save(step + 1, {"trace": trace, "hooks": [one.state() for one in hooks]})
        progress(f"loss {loss:.2f}", (step + 1) / steps)
    if board:
        board.close()
    if shares:
        optimizer.state.clear()  # room for the whole weights
        shares.gather()
    for one in hooks:
        one.end()
    model.eval()
    return trace


def _record(
    step: int, model: Any, evaluate: Callable[[Any], dict[str, float]], hooks: Sequence[Hook]
) -> dict[str, float]:
    """Return what is measured at a recorded step, once the hooks have seen it."""
    for one in hooks:
        one.record(step)
    return evaluate(model)


def _resume(state: checkpoint.State, hooks: Sequence[Hook]) -> tuple[int, list[dict[str, Any]]] | None:
    """Set model and hooks to the checkpoint, if there is one, and return its step and trace."""
    if (found := state.resume()) is None:
        return None
    step, record = found
    for one, kept in zip(hooks, record["hooks"], strict=True):
        one.resume(kept)
    return step, record["trace"]


def n_steps(config: TrainConfig, n_examples: int) -> int:
    """Return the number of optimizer steps."""
    return config.steps or config.epochs * math.ceil(n_examples / config.batch_size)


def batch_rows(lengths: Sequence[int], config: TrainConfig, step: int, *, seed: int) -> Int[np.ndarray, " row"]:
    """Return the examples of a step: each once an epoch, in an order drawn from (seed, epoch).

    Inside each window of `length_window` batches the examples are sorted by length; then batches are shuffled. The
    last batch of an epoch may be smaller.
    """
    n, size = len(lengths), config.batch_size
    epoch, place = divmod(step, math.ceil(n / size))
    rng = np.random.default_rng([seed, 7, epoch])
    order = rng.permutation(n)
    if config.length_window > 1:
        window = size * config.length_window
        by_length = np.asarray(lengths)[order]
        order = np.concatenate(
            [order[i : i + window][np.argsort(by_length[i : i + window], kind="stable")] for i in range(0, n, window)]
        )
    batches = [order[i : i + size] for i in range(0, n, size)]
    return batches[rng.permutation(len(batches))[place]]


def in_memory(config: TrainConfig, model: Any, examples: Sequence[Encoded]) -> TrainConfig:
    """Return the config with as many tokens per forward pass as memory holds of such examples, if none are given."""
    lengths = [len(example.tokens) for example in examples]
    scored = [len(example.completion) for example in examples]
    rows = config.micro_batch_size or config.batch_size
    options: dict[str, Any] = {"trains": True, "recomputes": config.gradient_checkpointing}
    options["n_shares"] = processes.count() if config.shard else 1
    tokens = memory.tokens(model, config.micro_batch_tokens, lengths, scored, rows=rows, **options)
    return replace(config, micro_batch_tokens=processes.least(tokens))


def passes(examples: Sequence[Encoded], config: TrainConfig, *, is_packed: bool = False) -> list[list[Encoded]]:
    """Return examples of one device by forward pass, in their order."""
    lengths = [len(example.tokens) for example in examples]
    tokens = batch.TOKENS if config.micro_batch_tokens is None else config.micro_batch_tokens
    rows = config.micro_batch_size or config.batch_size
    batches = batch.in_turn(lengths, rows=rows, tokens=tokens, is_packed=is_packed)
    return [[examples[row] for row in own] for own in batches]


def loss_sum(
    model: torch.nn.Module, tokens: Int[torch.Tensor, "example token"], labels: Int[torch.Tensor, "example token"]
) -> Float[torch.Tensor, ""]:
    """Return the sum of -log p over the answers' tokens."""
    return _answers_loss(answer_logits(model, tokens, labels), labels)


def answer_logits(
    model: torch.nn.Module, tokens: Int[torch.Tensor, "example token"], labels: Int[torch.Tensor, "example token"]
) -> Float[torch.Tensor, "scored output"]:
    """Return the logits that predict the answers' tokens, example by example."""
    wanted = labels[:, 1:] != batch.IGNORED
    if packed.is_on(model):
        return packed.predicting(model, tokens[:, :-1], wanted)
    # No mask is needed: attention is causal, and padding comes last and is not scored.
    with logits.only(model, wanted):
        return model(input_ids=tokens[:, :-1], use_cache=False).logits[0]


def _answers_loss(
    predicting: Float[torch.Tensor, "scored output"], labels: Int[torch.Tensor, "example token"]
) -> Float[torch.Tensor, ""]:
    answers = labels[:, 1:]
    return functional.cross_entropy(predicting.float(), answers[answers != batch.IGNORED], reduction="sum")


def _step(
    model: Any,
    optimizer: Any,
    examples: Sequence[Encoded],
    config: TrainConfig,
    pad: int,
    hooks: Sequence[Hook],
    is_mixed: bool,
) -> float:
    """Take one optimizer step on the mean over the batch's answer tokens, of all processes, and return it.

    What hooks add is divided by as many tokens, and is no part of what is returned.
    """
    model.train()
    device = next(model.parameters()).device
    n_tokens = sum(len(example.completion) for example in examples)
    total = torch.zeros((), device=device)
    with packed.attention(model) if config.packing else nullcontext():
        for part in _own_passes(examples, config):
            padded = batch.of_questions(part or examples[:1], pad)
            tokens, labels = padded.tokens.to(device), padded.labels.to(device)
            if not part:
                labels = torch.full_like(labels, batch.IGNORED)
            with _precision(device, is_mixed):
                predicting = answer_logits(model, tokens, labels)
                loss = _answers_loss(predicting, labels) / n_tokens
                added = [one.loss(tokens, labels, predicting) / n_tokens for one in hooks]
            objective: Any = sum(added, start=loss)
            objective.backward()
            total += loss.detach()
    processes.add([total])
    if processes.count() > 1 and not config.shard:
        processes.add(_gradients(model))
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def _own_passes(examples: Sequence[Encoded], config: TrainConfig) -> list[list[Encoded]]:
    """Return this process's passes, of a model that is shared out as many as any makes: empty ones score nothing."""
    own = passes([example for _, example in processes.share(examples)], config, is_packed=config.packing)
    if not config.shard:
        return own
    n = processes.count()
    shares = (examples[process::n] for process in range(n))
    most = max(len(passes(share, config, is_packed=config.packing)) for share in shares)
    return [*own, *([] for _ in range(most - len(own)))]


def _gradients(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield this process's gradient of each weight that some process has one of."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
    used = used.to(trained[0].device)
    processes.add([used])
    for parameter, n_users in zip(trained, used.tolist(), strict=True):
        if n_users and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            yield parameter.grad


def _other_seed(seed: int, process: int) -> int:
    """Return the seed of the dropout of a process that is not the first."""
    return int(np.random.default_rng([seed, 14, process]).integers(2**32))


def _precision(device: torch.device, is_mixed: bool) -> torch.autocast:
    """Return the context of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)


def _board(work: Path) -> Any:
    """Return TensorBoard's writer."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--finetune.train.tensorboard needs the package tensorboard.\nInstall it, or leave the flag."
        ) from error
    return SummaryWriter(str(work / "tensorboard"))
