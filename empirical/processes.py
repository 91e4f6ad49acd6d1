"""Several processes that do one command's work together, as torchrun starts them: who does what, and who writes.

Each process holds the whole model, unless finetuning shares it out (`empirical.lm.sharded`). Work that is a list
(batches of questions, few-shot prompts) is dealt out and gathered; a training step's batch is, too, and gradients are
summed. The first process alone writes and prints.
"""

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import distributed

from core import console
from core.errors import InputError

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others, whose share may take longer."""


def asked_for() -> int:
    """Return how many processes torchrun, or its like, has started for this command; 1 for one by itself."""
    n_processes = os.environ.get("WORLD_SIZE", "")
    return int(n_processes) if n_processes.isdecimal() and int(n_processes) > 1 else 1


def start() -> None:
    """Meet the other processes, if there are any, each with an accelerator of its own where there are accelerators.

    Raises:
        InputError: there are fewer accelerators than processes, the processes are on several machines, accelerate
            would share the model out over them, or their addresses are not set.
    """
    if asked_for() == 1 or distributed.is_initialized():
        return
    absent = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise InputError(
            f"WORLD_SIZE is {asked_for()}, and {', '.join(absent)} is not set.\n"
            "Start several processes with torchrun --nproc_per_node N -m empirical ..., or leave WORLD_SIZE unset."
        )
    if os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]) != os.environ["WORLD_SIZE"]:
        raise InputError("the processes are on several machines: they keep what is done in one folder.\nTake one.")
    if "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED")):
        raise InputError(
            "accelerate's FSDP and DeepSpeed are not used here.\n"
            "Leave out FSDP or DeepSpeed: --finetune.train.shard shares a model out over the processes."
        )
    if torch.accelerator.is_available():
        n_devices, own = torch.accelerator.device_count(), int(os.environ["LOCAL_RANK"])
        if own >= n_devices:
            raise InputError(f"{asked_for()} processes on {n_devices} accelerators.\n--nproc_per_node {n_devices}")
        torch.accelerator.set_device_index(own)
    distributed.init_process_group(timeout=PATIENCE)
    if not is_first():
        console.silence()


def end() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def number() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Return whether this is the process that writes and prints."""
    return number() == 0


def share(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Return this process's share of the items, each with its place among all."""
    return islice(enumerate(items), number(), None, count())


def gathered(own: Mapping[int, T]) -> list[T]:
    """Return what all processes made, by place; what several made at one place is the last one's."""
    if count() == 1:
        return [own[place] for place in sorted(own)]
    shares: list[Any] = [None] * count()
    distributed.all_gather_object(shares, dict(own))
    whole = {place: made for one in shares for place, made in one.items()}
    return [whole[place] for place in sorted(whole)]


def agreed(value: T) -> T:
    """Return the first process's value, in all of them."""
    if count() == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told)
    return told[0]


def least(value: int) -> int:
    """Return the least of all processes' values, in all of them."""
    return min(gathered({number(): value}))


def add(tensors: Iterable[torch.Tensor]) -> None:
    """Set each tensor to its sum over all processes."""
    if count() > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)
