"""Weights of a few bits: which packages read them, and a checkpoint's own weights read in four."""

import importlib.util
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from core.errors import InputError

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "optimum gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}
"""What reads quantised weights, by the method that the config names."""


def method(settings: Any) -> str | None:
    """Return the method by which a checkpoint's weights are quantised; None: they are not."""
    found = getattr(settings, "quantization_config", None)
    if found is None:
        return None
    return str(found.get("quant_method") if isinstance(found, dict) else found.quant_method)


def remedy(of: str) -> str:
    """Return what to do where weights that are quantised by this method cannot be read."""
    package = PACKAGES.get(of)
    install = "Install the package that reads such weights" if package is None else f"pip install {package}"
    return f"Its weights are quantised ({of}). {install}, or name the checkpoint from before."


def four_bits(kind: Literal["nf4"], name: str, stored: str | None, *, computes: torch.dtype) -> BitsAndBytesConfig:
    """Return how a model's weights are read in 4 bits, their scales too in few.

    Args:
        stored: The method by which they are quantised already.
        computes: What they are multiplied in.

    Raises:
        InputError: they are quantised, or the package that does it is not there.
    """
    if stored is not None:
        raise InputError(f"--model.quantise: the weights of {name} are quantised ({stored}).\nLeave the flag.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"--model.quantise {kind} needs the package bitsandbytes.\npip install bitsandbytes, or leave the flag."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computes,
    )


def keep_scales(network: torch.nn.Module) -> None:
    """Let bitsandbytes keep 4-bit weights as they were read.

    On some processors it would pack them anew at the first evaluation, rounding their scales for good: a base would be
    another one afterwards.
    """
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
