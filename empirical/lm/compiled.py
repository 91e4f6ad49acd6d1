"""Layers that PyTorch compiles for the steps of a training: fewer kernels to launch, the same numbers but for rounding.

Each layer is compiled as it stands (regional compilation), and those that are alike share what is compiled. Between
steps the model is plain: what is measured is computed as ever, and weights, adapters and hooks are where they were.
"""

from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch._dynamo import config
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from core.errors import InputError
from empirical.lm import logits, sharded
from empirical.lm.shape import Model

BACKEND = "inductor"
"""What compiles, in its default mode: PyTorch's CUDA graphs lose gradients that are accumulated over passes, and are
recorded anew for each shape of a batch."""
OPTIONS = {"inductor": {"fallback_random": True}}
"""Of a backend. Dropout is drawn as ever: what PyTorch 2.13 compiles of it on CUDA gives neighbours the same mask."""
LIMIT = 64
"""How often the layers are compiled in a process, for what passes may differ in: one row or several, an adapter, a
mask, frozen weights. Two to four are the rule."""
FAILURES = (TorchDynamoException, FailOnRecompileLimitHit)
"""What PyTorch raises where a layer cannot be compiled as one graph, or not again."""
REMEDY = "Leave out --finetune.train.compile."


class Layers:
    """A model's layers, which run what was compiled of them within this context, as often as it is entered.

    Rows and tokens may be of any number. Layers are compiled when they first compute, backward passes when these come.
    A training that was interrupted goes on with the same bits where the same is compiled again, which may depend on
    the shapes that come first; else with the same numbers but for rounding.

    Raises:
        InputError: on leaving, a layer cannot be compiled, or was compiled too often.
    """

    def __init__(self, model: Any, *, backend: str = "") -> None:
        how: dict[str, Any] = {"backend": backend or BACKEND, "recompile_limit": LIMIT}
        how["options"] = OPTIONS.get(how["backend"])
        how |= {"dynamic": True, "fullgraph": True}  # an error where part of a layer would run as ever
        self._model = model
        self._calls = [(layer, torch.compile(layer._call_impl, **how)) for layer in sharded.layers(model)]

    def __enter__(self) -> None:
        for layer, call in self._calls:
            layer._compiled_call_impl = call  # as `layer.compile` does

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, _ in self._calls:
            layer._compiled_call_impl = None
        if isinstance(error, FAILURES):
            raise _refused(self._model, _reason(error)) from error


@torch.no_grad()
def check(model: Model) -> None:
    """Raise InputError for a model in evaluation mode whose layers cannot be compiled, or not on this machine."""
    if getattr(model, "is_quantized", False):
        raise _refused(model, "its weights are quantised")
    if not sharded.layers(model):
        raise _refused(model, "its layers are not found")
    _check_compiler(model.device.type, BACKEND)
    tokens = torch.zeros((2, 3), dtype=torch.long, device=model.device)
    network: Any = model
    with Layers(model, backend="eager"), logits.only(model, torch.zeros_like(tokens, dtype=torch.bool)):
        network(input_ids=tokens, use_cache=False)


@cache
def _check_compiler(device: str, backend: str) -> None:
    """Raise InputError where nothing is compiled for such a device."""
    try:
        torch.compile(_tried, backend=backend, fullgraph=True)(torch.ones(2, device=device))
    except FAILURES as error:
        raise InputError(
            f"--finetune.train.compile: PyTorch compiles nothing for {device} here ({_reason(error)}).\n"
            "Install a C++ compiler (g++), for a GPU Triton too, or leave the flag."
        ) from error


def _tried(one: torch.Tensor) -> torch.Tensor:
    return one.sin() + 1


def _reason(error: Exception) -> str:
    """Return the first line of what went wrong."""
    said = str(getattr(error, "inner_exception", error)).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__


def _refused(model: Any, reason: str) -> InputError:
    name = model.config.name_or_path or model.config.model_type
    return InputError(f"the layers of {name} cannot be compiled: {reason}.\n{REMEDY}")


# Hooks within layers are part of what is compiled; else those of the first model would be taken for all others'.
config.skip_nnmodule_hook_guards = False
