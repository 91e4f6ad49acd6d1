"""What a model's passes cost in operations, how fast a device multiplies, and what a piece of work reached of that."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch
from transformers.pytorch_utils import Conv1D

from core.console import ERRORS, OUTPUT
from empirical import processes
from empirical.lm import shape
from empirical.lm.prompts import Encoded
from empirical.lm.shape import Model

SIDE = {"cpu": 1024, "cuda": 4096}
"""Rows and columns of the matrices that are multiplied to measure a device: large enough, and quickly done."""
WINDOWS = 5
"""Measurements of which the fastest counts: others may be at work beside."""


@dataclass(frozen=True)
class Work:
    """What goes through a model: padding apart."""

    n_tokens: int = 0
    n_pairs: int = 0
    """Of each token that is read and each place that it may look at, later ones of its pass included."""
    n_scored: int = 0
    """Places at which logits are computed."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.n_tokens + other.n_tokens, self.n_pairs + other.n_pairs, self.n_scored + other.n_scored)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.n_tokens - other.n_tokens, self.n_pairs - other.n_pairs, self.n_scored - other.n_scored)

    def times(self, n: int | float) -> "Work":
        """Return so many times this work."""
        return Work(round(n * self.n_tokens), round(n * self.n_pairs), round(n * self.n_scored))


def of_training(examples: Sequence[Encoded]) -> Work:
    """Return what goes through a model in one training step on these: all but each one's last token."""
    read = [len(example.tokens) - 1 for example in examples]
    return Work(sum(read), sum(n * n for n in read), sum(len(example.completion) for example in examples))


@dataclass(frozen=True)
class Operations:
    """What of a model decides how many floating-point operations its work takes.

    The usual count (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B): two for each weight of a
    matrix and each token; for attention four for each pair of tokens and each dimension of each head, as if no mask
    made it cheaper. A backward pass takes as many again for what enters a matrix, and as many for the matrix itself if
    it is trained, so that a training step takes three times a forward pass, and with frozen weights twice. Additions,
    norms, activations and what is computed again (activation checkpointing) are not counted, nor are experts.
    """

    linear: int
    """Weights of the layers' matrices, an adapter's included."""
    linear_trained: int
    head: int
    head_trained: int
    attention: int
    """Dimensions of all heads of all layers."""

    def forward(self, work: Work) -> int:
        """Return the operations of forward passes."""
        linear, scored = self.linear * work.n_tokens, self.head * work.n_scored
        return 2 * (linear + scored) + 4 * self.attention * work.n_pairs

    def training(self, work: Work) -> int:
        """Return the operations of forward and backward passes."""
        linear = (2 * self.linear + self.linear_trained) * work.n_tokens
        scored = (2 * self.head + self.head_trained) * work.n_scored
        return 2 * (linear + scored) + 12 * self.attention * work.n_pairs


def operations(model: Model) -> Operations:
    """Return what decides a model's operations, whatever device it is on."""
    decoder: Any = model.get_decoder()
    layers = [(_size(layer), _is_trained(layer)) for layer in decoder.modules() if _is_linear(layer)]
    head: Any = model.get_output_embeddings()
    head_size = sum(_size(layer) for layer in head.modules() if _is_linear(layer))
    config = shape.text(model)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // shape.n_heads(model)
    return Operations(
        linear=sum(size for size, _ in layers),
        linear_trained=sum(size for size, is_trained in layers if is_trained),
        head=head_size,
        head_trained=sum(_size(one) for one in head.modules() if _is_linear(one) and _is_trained(one)),
        attention=shape.n_layers(model) * shape.n_heads(model) * d_head,
    )


def _is_linear(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Linear | Conv1D)


def _size(layer: Any) -> int:
    return layer.nx * layer.nf if isinstance(layer, Conv1D) else layer.in_features * layer.out_features


def _is_trained(layer: Any) -> bool:
    return layer.weight.requires_grad


@dataclass(frozen=True)
class Throughput:
    """What a piece of work took and reached."""

    what: str
    n_facts: int
    """Over all epochs."""
    n_tokens: int
    """Read by the model, padding apart."""
    flops: int
    seconds: float
    """Of the work itself, without what is measured or written in between."""
    matmul_flops_per_second: float
    """What the devices multiply large matrices at, all together."""
    dtype: str
    peak_bytes: int
    """GPU: allocated during the work; processor: what the process has held at most since it began."""

    @property
    def utilisation(self) -> float:
        """The share of the matmul rate that the model's operations reach."""
        return self.flops / self.seconds / self.matmul_flops_per_second

    def report(self) -> dict[str, Any]:
        """Return what is stored."""
        return {
            "facts": self.n_facts,
            "tokens": self.n_tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "facts_per_second": self.n_facts / self.seconds,
            "tokens_per_second": self.n_tokens / self.seconds,
            "matmul_flops_per_second": self.matmul_flops_per_second,
            "dtype": self.dtype,
            "utilisation": self.utilisation,
            "peak_bytes": self.peak_bytes,
        }

    def tell(self) -> None:
        """Say it on stderr; of several processes the first does."""
        if not OUTPUT.quiet:
            ERRORS.print(
                f"{self.what}: {self.n_facts / self.seconds:,.1f} facts/s, "
                f"{self.n_tokens / self.seconds:,.0f} tokens/s, "
                f"{self.utilisation:.0%} of the {self.matmul_flops_per_second / 1e9:,.0f} Gflop/s of {self.dtype} "
                f"products here, peak memory {self.peak_bytes / 1e9:.1f} GB.",
                style="dim",
                markup=False,
            )


class Meter:
    """Adds up a piece of work: what passes through a model that it watches, or steps that it is told of."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.n_facts, self.flops, self.work = device, 0.0, 0, 0, Work()
        self._started = time.perf_counter()
        self._operations: Operations | None = None
        self._dtype = torch.float32
        self._seen = torch.zeros(3, dtype=torch.int64, device=device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def step(self, model: Model, examples: Sequence[Encoded], seconds: float, dtype: torch.dtype) -> None:
        """Add a training step of all processes together."""
        self._operations, self._dtype = self._operations or operations(model), dtype
        work = of_training(examples)
        self.work, self.n_facts, self.seconds = self.work + work, self.n_facts + len(examples), self.seconds + seconds
        self.flops += self._operations.training(work)

    def watch(self, model: Any, pad: int) -> None:
        """Add from now on what the model reads in forward passes.

        Args:
            pad: The token that is padding where a pass is given no mask.
        """
        self._operations, self._dtype, self._started = operations(model), model.dtype, time.perf_counter()

        def reads(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            tokens = named.get("input_ids", given[0] if given else None)
            mask, cache = named.get("attention_mask"), named.get("past_key_values")
            whole = named["inputs_embeds"][..., 0] if tokens is None else tokens
            n_new, n_before = whole.shape[1], 0 if cache is None else cache.get_seq_length()
            if mask is not None and mask.ndim == 2:
                own, context = mask[:, -n_new:].sum(1), mask.sum(1)
            else:
                own = torch.full_like(whole, n_new)[:, 0] if tokens is None else (tokens != pad).sum(1)
                context = own + n_before
            self._seen[0] += own.sum()
            self._seen[1] += (own * context).sum()

        def scores(_: Any, given: tuple[Any, ...], __: Any) -> None:
            self._seen[2] += given[0].shape[:-1].numel()

        model.get_decoder().register_forward_pre_hook(reads, with_kwargs=True)
        model.get_output_embeddings().register_forward_hook(scores)

    @property
    def seen(self) -> Work:
        """What this process's model has read since it is watched."""
        return Work(*self._seen.tolist())

    def throughput(self, what: str, n_facts: int | None = None) -> Throughput | None:
        """Return what was reached, of all processes together; None where nothing was done.

        Args:
            n_facts: How many facts were asked about, where a model was watched.
        """
        seconds = self.seconds or time.perf_counter() - self._started
        processes.add([self._seen])
        self.work, flops = self.work + Work(*self._seen.tolist()), self.flops
        if self._operations is None or not self.work.n_tokens:
            return None
        flops = flops or self._operations.forward(self.work)
        n_facts = self.n_facts if n_facts is None else n_facts
        rate = processes.count() * matmul_rate(self.device, self._dtype)
        name = str(self._dtype).removeprefix("torch.")
        return Throughput(what, n_facts, self.work.n_tokens, flops, seconds, rate, name, peak(self.device))


@lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second at which the device multiplies large matrices, measured once."""
    side = SIDE.get(device.type, SIDE["cuda"])
    generator = torch.Generator(device).manual_seed(0)  # what is drawn elsewhere stays as it is
    left, right = (torch.rand(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    n_calls = 1 if device.type == "cpu" else 10

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(n_calls):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds()
    return n_calls * 2 * side**3 / min(seconds() for _ in range(WINDOWS))


def peak(device: torch.device) -> int:
    """Return the bytes held at most: on a GPU since a meter began, else of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held: Any = psutil.Process().memory_info()
    if hasattr(held, "peak_wset"):  # Windows, which has no module resource
        return held.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
