"""One optimizer step: the loss on the answers' tokens, its gradients over all passes and processes, the update."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.nn import functional

from empirical import processes
from empirical.lm import batch, logits, packed
from empirical.lm.hook import Hook
from empirical.lm.order import passes
from empirical.lm.prompts import Encoded
from empirical.lm.train_config import TrainConfig


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


def take_step(
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
            with precision(device, is_mixed):
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


def precision(device: torch.device, is_mixed: bool) -> torch.autocast:
    """Return the context of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)
