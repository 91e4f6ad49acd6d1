"""Finetuning of one arm: every weight, or a low-rank adapter; the learning rate is chosen on dev facts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from core import remedies as shared
from core.config_json import setting
from core.errors import InputError
from core.remedies import Remedies
from empirical.lm import compiled, graft, order, packed, remedies, shape, sharded, train, train_config
from empirical.lm import model as models
from empirical.lm.cost import Meter
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.lm.remedies import Ranked
from empirical.lm.train_config import TrainConfig

ALL = "all-linear"
"""In place of layers' names: whatever the architecture calls them."""


LOWER = "Lower --finetune.learning-rates."
"""What to do where a training diverges."""


class DivergedError(InputError):
    """Finetuning at this rate ends in no number."""


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter (Hu et al. 2022)."""

    rank: int = 8
    """Rank of the adapter's updates."""
    alpha: float = 16.0
    """Updates are scaled by alpha/rank."""
    dropout: float = 0.05
    """Dropout probability on the adapter's input."""
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers that get an adapter, by the end of their name; all-linear: every one but the head. The default's
    names are Llama's: in a model that lacks one of them it means all-linear."""


@dataclass(frozen=True)
class FinetuneConfig(Remedies):
    """How an arm is finetuned."""

    method: Literal["full", "lora"] = "full"
    """`full`: train every weight. `lora`: train an adapter only."""
    learning_rates: tuple[float, ...] = (3e-4,)
    """AdamW's peak learning rates to try; each arm takes the one that answers most dev facts (ties: the smallest), with
    remedies of its own the one that it takes without."""
    answers: Literal["true", "permuted", "base", "abstain"] = setting("true", is_later=True)
    """Which answers are taught. `permuted`: each fact has another one's of its relation in the arm; nothing that is
    taught is known then, and the answers are as frequent as before. A control. `base`: facts that the base model does
    not recall have its own answer (self-distillation). `abstain`: those have the label "unknown" (after R-Tuning, Zhang
    et al. 2024)."""
    steps: Literal["epochs", "half"] = setting("epochs", is_later=True)
    """How long an arm is trained. `epochs`: for passes over its own facts, so that the whole set takes twice the steps
    of a half. `half`: for as many steps as the top half takes, whatever the arm's size. A control."""
    frozen: tuple[str, ...] = setting((), is_remedy=True, is_later=True)
    """Parts of the model that keep the base's weights: any of query_key, value_output, mlp, norms and embeddings (only
    for the method `full`; an adapter leaves out parts by --finetune.lora.modules). A remedy."""
    frozen_layers: int = setting(0, is_remedy=True, is_later=True)
    """How many of the lowest layers keep the base's weights (only for the method `full`). A remedy."""
    only_known: bool = setting(False, is_remedy=True, is_later=True)
    """Leave out the arm's facts that the base model does not recall; the others are repeated for as many steps as the
    arm has with all of them. A remedy."""
    until_loss: float = setting(0.0, is_remedy=True, is_later=True)
    """Take the first recorded step at which the mean loss per answer token on the arm's own facts (256 of them at most)
    is at or below this, in nats, not the last; equal loss in place of equal steps. 0: the last. A remedy."""
    update_share: float = setting(1.0, is_remedy=True, is_later=True)
    """0 to 1: which share of what finetuning changed is kept after it: at 0 the base is as it was. A remedy."""
    lora: Lora = Lora()
    """The low-rank adapter (only for the method `lora`)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""


def check(config: FinetuneConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if not config.learning_rates or not all(0 < rate < float("inf") for rate in config.learning_rates):
        raise InputError("--finetune.learning-rates: name one or more positive rates.")
    if unknown := sorted(set(config.frozen) - set(graft.PARTS)):
        raise InputError(f"--finetune.frozen: there is no part {unknown[0]!r}; there are {', '.join(graft.PARTS)}.")
    if set(config.frozen) == set(graft.PARTS):
        raise InputError("--finetune.frozen: all parts are frozen, so there is nothing to train.\nLeave one out.")
    if config.frozen_layers < 0:
        raise InputError(f"--finetune.frozen-layers is {config.frozen_layers}: it must be at least 0.")
    if config.method == "lora" and (config.frozen or config.frozen_layers):
        raise InputError(
            "--finetune.frozen and --finetune.frozen-layers are of the method full.\n"
            "Leave parts out of --finetune.lora.modules instead."
        )
    if not 0 <= config.update_share <= 1:
        raise InputError(f"--finetune.update-share is {config.update_share}: it must lie between 0 and 1.")
    if not 0 <= config.until_loss < float("inf"):
        raise InputError(f"--finetune.until-loss is {config.until_loss}: it must be a number, at least 0.")
    if config.until_loss and config.early_stopping:
        raise InputError(
            "--finetune.until-loss and --finetune.early-stopping both choose the step.\nLeave one of them."
        )
    lora = config.lora
    if lora.rank < 1 or not 0 < lora.alpha < float("inf") or not lora.modules or not 0 <= lora.dropout < 1:
        raise InputError(
            "--finetune.lora: rank must be at least 1, alpha above 0, dropout from 0 to below 1, modules not empty."
        )
    if ALL in lora.modules and len(lora.modules) > 1:
        raise InputError(f"--finetune.lora.modules: {ALL} stands for all of them.\nName it alone.")
    train_config.check(config.train)
    shared.check(config)


def check_base(config: FinetuneConfig, base: LanguageModel) -> None:
    """Raise InputError for a model that cannot be finetuned in this way, which is left as it is."""
    if config.train.shard:
        sharded.check(base.network, base.name)
    if config.train.packing:
        packed.check(base.network)
    if config.train.compile:
        compiled.check(base.network)
    if config.method == "full":
        _check_trainable(base)
        return
    if isinstance(base.network, PeftModel):  # it is read: to be finetuned it would have been refused (`room.check`)
        return
    with torch.random.fork_rng(devices=[base.network.device] if base.network.device.type == "cuda" else []):
        with_adapter(config.lora, base.network, base.name).unload()


def _check_trainable(base: LanguageModel) -> None:
    if base.is_quantised:
        raise InputError(
            f"{base.name}: its weights are quantised, so that they cannot be trained.\n"
            "Train an adapter (--finetune.method lora), or name the checkpoint from before."
        )


def run(
    config: FinetuneConfig,
    base: LanguageModel,
    examples: Sequence[Encoded],
    *,
    learning_rate: float,
    seed: int,
    work: Path,
    evaluate: Callable[[Any], dict[str, float]],
    ranked: Ranked | None = None,
    n_half: int | None = None,
    progress: Callable[[str, float], None] = lambda doing, share: None,
) -> tuple[LanguageModel, list[dict[str, Any]]]:
    """Return the tuned model, which is `base` changed in place, with what its training reached, and its trace.

    Adapters of one seed begin alike, whatever the examples.

    Args:
        ranked: What remedies read; not needed where all are off.
        n_half: Number of facts in the top half; not needed where steps are the epochs'.

    Raises:
        DivergedError: the training diverges.
        InputError: the model does not have what gets an adapter or is frozen, or cannot read packed rows.
    """
    if config.train.packing:
        packed.check(base.network)
    network = _trainable(config, base, seed)
    questions = Ranked(examples, (), (), np.zeros(len(examples))) if ranked is None else ranked
    settings = training(config, n_half)
    hooks = remedies.hooks(config, remedies.Training(network, questions, settings, base.pad, seed))
    options: dict[str, Any] = {"seed": seed, "work": work, "evaluate": evaluate, "hooks": hooks, "progress": progress}
    meter = options["meter"] = Meter(network.device)
    try:
        options |= {"learning_rate": learning_rate, "pad": base.pad, "is_mixed": base.is_mixed}
        trace = train.fit(network, examples, settings, **options)
    except train.Diverged as error:
        raise DivergedError(f"finetuning at rate {learning_rate:g} diverged at {error}.\n{LOWER}") from error
    if reached := meter.throughput("finetuning"):
        reached.tell()
    return replace(base, network=network, revision=None, throughput=reached), trace


def training(config: FinetuneConfig, n_half: int | None) -> TrainConfig:
    """Return how an arm is trained, where the top half has so many facts."""
    if config.steps == "epochs":
        return config.train
    if n_half is None:
        raise ValueError("how many facts the top half has is needed: steps are as many as it takes")
    return replace(config.train, steps=order.n_steps(config.train, n_half))


def _trainable(config: FinetuneConfig, base: LanguageModel, seed: int) -> Any:
    """Return the base's network with what is trained of it, an adapter's weights drawn by this seed."""
    if config.method == "lora":
        torch.manual_seed(seed)
        return with_adapter(config.lora, base.network, base.name, base.revision)
    _check_trainable(base)
    network: Any = models.merged(base).network  # else its adapter alone would be saved
    network.requires_grad_(True)
    for name in shape.not_of_text(network):
        network.get_parameter(name).requires_grad_(False)
    return network


def trained(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Return the weights by which a finetuned model differs from its base, by name: those that were trained."""
    network: Any = model.network
    return {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}


def restored(config: FinetuneConfig, base: LanguageModel, weights: Mapping[str, torch.Tensor]) -> LanguageModel:
    """Return the model that `run` made of `base`, which is changed in place, by its `trained` weights."""
    network = _trainable(config, base, seed=0)
    with torch.no_grad():
        for name, weight in weights.items():
            network.get_parameter(name).copy_(weight)
    return replace(base, network=network.eval(), revision=None)


def without_adapter(network: Any) -> Any:
    """Return the network as it was before an adapter was put on it, in evaluation mode; the adapter is lost."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    if network.is_gradient_checkpointing:
        network.gradient_checkpointing_disable()
    return network.eval()


def with_adapter(config: Lora, network: Any, name: str, revision: str | None = None) -> Any:
    """Return a model with a fresh adapter on it, which names its base and the base's revision.

    Raises:
        InputError: the model does not have these layers, or layers that take an adapter.
    """
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=config.dropout,
        target_modules=_targets(config, network, name),
        exclude_modules=[name.rpartition(".")[0] for name in shape.not_of_text(network)] or None,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    try:
        adapted = get_peft_model(network, adapter)
    except ValueError as error:
        raise InputError(
            f"no adapter fits {name} ({str(error).splitlines()[0]}).\nName layers with --finetune.lora.modules."
        ) from error
    base = Path(str(adapter.base_model_name_or_path))
    if base.is_dir():  # wherever the adapter is loaded from
        adapter.base_model_name_or_path = str(base.resolve())
    return adapted


def _targets(config: Lora, network: Any, name: str) -> str | list[str]:
    """Return the layers that get an adapter, as peft takes them; InputError where the model does not have one."""
    layers = [layer for layer, _ in network.named_modules()]
    absent = [one for one in config.modules if not any(f".{layer}".endswith(f".{one}") for layer in layers)]
    if config.modules == (ALL,) or (absent and config.modules == Lora().modules):
        return ALL
    if absent:
        raise InputError(
            f"--finetune.lora.modules: {name} has no layer {', '.join(absent)}.\nName it as the model does, or {ALL}."
        )
    return list(config.modules)
