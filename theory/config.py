"""The whole experiment's configuration: the stages' own, nested."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from core import config_json, split
from core.errors import InputError
from core.split import SplitConfig
from theory import facts
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.knownness import KnownnessConfig
from theory.model.config import ModelConfig
from theory.pretrain import PretrainConfig


@dataclass(frozen=True)
class Config:
    """One experiment: a world, a model, and what is done to it."""

    facts: FactsConfig = field(default_factory=FactsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    knownness: KnownnessConfig = field(default_factory=KnownnessConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    precision: Literal["float32", "float64"] = "float32"
    """Precision of training; measurements are always made in float64."""
    n_records: int = 20
    """Points recorded along each training, besides its start."""


def check(config: Config) -> None:
    """Raise InputError for a combination of settings that means nothing, naming the flags and the remedy."""
    facts.check(config.facts)
    split.check(config.split)
    positive = {
        "--pretrain.steps": config.pretrain.steps,
        "--pretrain.batch-size": config.pretrain.batch_size,
        "--finetune.steps": config.finetune.steps,
        "--finetune.batch-size": config.finetune.batch_size,
        "--n-records": config.n_records,
        "--model.n-filler": config.model.n_filler,
    }
    for flag, value in positive.items():
        if value < 1:
            raise InputError(f"{flag} is {value}: it must be at least 1.")
    rates = {
        "--pretrain.learning-rate": config.pretrain.learning_rate,
        "--finetune.learning-rate": config.finetune.learning_rate,
        "--finetune.value-learning-rate": config.finetune.value_learning_rate,
    }
    for flag, value in rates.items():
        if not 0 < value < math.inf:
            raise InputError(f"{flag} is {value}: it must be a positive number.")
    if not 0 <= config.model.shared_share < 1:
        raise InputError(f"--model.shared-share is {config.model.shared_share}: it must be at least 0 and below 1.")
    if not 0 <= config.model.value_share <= 1:
        raise InputError(f"--model.value-share is {config.model.value_share}: it must lie between 0 and 1.")
    if config.model.dimension is not None and config.model.dimension < 2:
        raise InputError(f"--model.dimension is {config.model.dimension}: it must be at least 2.")
    if config.split.held_out == 0:
        raise InputError("--split.held-out is 0: that leaves nothing to test.")
    for flag, value in {
        "kl-weight": config.finetune.kl_weight,
        "attention-floor": config.finetune.attention_floor,
    }.items():
        if not 0 <= value < math.inf:
            raise InputError(f"--finetune.{flag} is {value}: it must be a number, at least 0.")
    if not 0 <= config.finetune.replay <= 1:
        raise InputError(f"--finetune.replay is {config.finetune.replay}: it must lie between 0 and 1.")
    if config.finetune.early_stopping and not config.split.dev:
        raise InputError("--finetune.early-stopping needs dev facts.\nAdd --split.dev 0.1.")
    if config.model.parametrisation == "factored":
        needs_dense = {
            "--model.embeddings random": config.model.embeddings != "structured",
            "--model.dimension": config.model.dimension is not None,
            "--pretrain.train everything": config.pretrain.train == "everything",
            f"--pretrain.optimizer {config.pretrain.optimizer}": config.pretrain.optimizer != "sgd",
            f"--finetune.optimizer {config.finetune.optimizer}": config.finetune.optimizer != "sgd",
        }
        wanted = [flag for flag, is_set in needs_dense.items() if is_set]
        if wanted:
            raise InputError(f"{', '.join(wanted)}: not for the factored model.\nAdd --model.parametrisation dense.")
    if config.finetune.prompt == "fresh_relation":
        if config.model.value_share:
            raise InputError("a fresh relation token has no value only with --model.value-share 0.")
        if config.model.parametrisation == "dense" and "everything" in (config.pretrain.train, config.finetune.train):
            raise InputError(
                "fresh_relation in the dense model trains attention only.\nUse --model.parametrisation factored."
            )


def to_json(config: Config) -> dict[str, Any]:
    """Return the resolved config as JSON-ready values."""
    return config_json.to_json(config)


def from_json(data: dict[str, Any]) -> Config:
    """Return the config that `to_json` wrote; InputError where it does not fit this version's fields."""
    return config_json.from_json(data, Config, "experiment")
