"""A model that is shared out over the processes: each holds a share of every weight, and of what training keeps of it.

A layer's weights are gathered when it computes, and given up after (ZeRO stage 3, Rajbhandari et al. 2020; PyTorch's
`fully_shard`). Every pass of the model is then one that all processes make together, each with rows of its own.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from core.errors import InputError
from empirical import processes
from empirical.lm import shape

MIXED = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
"""Layers' weights are gathered in bfloat16, to which autocast rounds matrices; gradients are summed in float32."""
CHANGED = [name for name in vars(torch.nn.Module()) if name == "_parameters" or "_hooks" in name]
"""What `fully_shard` changes of a module: each is a dictionary."""


class Sharded:
    """A network that is shared out until it is gathered: the same object, its weights of the same names."""

    def __init__(self, network: Any, *, is_mixed: bool) -> None:
        self._network, self._whole = network, dict(network.named_parameters())
        self._before = [(one, type(one), set(vars(one)), _changed(one)) for one in network.modules()]
        mesh = init_device_mesh(next(network.parameters()).device.type, (processes.count(),))
        for layer in layers(network):
            fully_shard(layer, mesh=mesh, mp_policy=MIXED if is_mixed else MixedPrecisionPolicy())
        # After a pass all weights are shares again, those in no layer too: whatever looks at them finds one kind.
        fully_shard(network, mesh=mesh, reshard_after_forward=True)
        for module in (*layers(network), network):
            module.set_gradient_divide_factor(1.0)  # a loss is divided already, by the tokens of all processes
            module.set_force_sum_reduction_for_comms(True)  # the only reduction that every backend has
        network.set_reduce_scatter_unused_params(True)  # which experts are asked may differ between processes
        for weight in self._whole.values():
            weight.data = weight.data.new_empty(0)

    def gather(self) -> None:
        """Let each process hold all of the network again, as it is by now; the parameters are those of before."""
        for name, share in self._network.named_parameters():
            self._whole[name].data = whole(share.detach())
        for module, kind, names, changed in self._before:
            module.__class__ = kind
            for name in set(vars(module)) - names:
                delattr(module, name)
            vars(module).update(changed)


def _changed(module: torch.nn.Module) -> dict[str, Any]:
    return {name: vars(module)[name].copy() for name in CHANGED}


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return all of a weight, which may be shared out: all processes ask for it then."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def layers(network: Any) -> list[Any]:
    """Return the layers of the part that reads text, whatever the architecture calls them."""
    lists = (one for one in network.get_decoder().modules() if isinstance(one, torch.nn.ModuleList))
    return next((list(one) for one in lists if len(one) == shape.n_layers(network)), [])


def n_whole(network: Any) -> int:
    """Return how many weights a process holds whole at once in training: those in no layer, and those of two layers."""
    sizes = sorted(sum(weight.numel() for weight in layer.parameters()) for layer in layers(network))
    return sum(weight.numel() for weight in network.parameters()) - sum(sizes[:-2])


def check(network: Any, name: str) -> None:
    """Raise InputError for a model that cannot be shared out."""
    kinds = {weight.dtype for weight in network.parameters()}
    if getattr(network, "is_quantized", False):
        reason = "its weights are quantised"
    elif len(kinds) > 1:
        reason = f"its weights are of several types ({', '.join(sorted(map(str, kinds)))})"
    elif not layers(network):
        reason = "its layers are not found"
    else:
        return
    raise InputError(f"{name} cannot be shared out: {reason}.\nLeave out --finetune.train.shard.")
