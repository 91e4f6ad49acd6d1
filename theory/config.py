"""The whole experiment's configuration: the stages' own, nested."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from core import config_json, remedies, split
from core.config_json import setting
from core.errors import InputError
from core.split import SplitConfig
from theory import facts, finetune, pretrain, selection
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.knownness import KnownnessConfig
from theory.model import config as model_config
from theory.model.config import MAX_LOSS, ModelConfig
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
    more_arms: tuple[str, ...] = setting((), is_later=True)
    """Arms to finetune beside the split's. By how frequent the answer is: common, rare; halves by knownness with
    equally frequent answers: top_matched, bottom_matched; both crossed: known_common, known_rare, unknown_common,
    unknown_rare; by size: size_5, size_10, size_25; not_modal: the best known whose answers are not the commonest.
    RULE@SIZE: so many facts, or such a share of the training facts, by popular, unpopular, random, salient, margin,
    logprob, rarest, not_modal, force or best (see `python -m theory select --help`)."""


def check(config: Config) -> None:
    """Raise InputError for a setting out of range or a combination that means nothing, naming flags and remedy."""
    facts.check(config.facts)
    split.check(config.split)
    model_config.check(config.model)
    pretrain.check(config.pretrain)
    finetune.check(config.finetune)
    selection.check(config.more_arms)
    if config.n_records < 1:
        raise InputError(f"--n-records is {config.n_records}: it must be at least 1.")
    if config.split.held_out == 0:
        raise InputError("--split.held-out is 0: that leaves nothing to test.")
    remedies.check_dev(config.finetune, config.split.dev)
    if config.model.parametrisation == "factored":
        _check_factored(config)
    if config.finetune.prompt == "template":
        _check_template(config.model)
    if config.finetune.prompt == "fresh_relation":
        _check_fresh_relation(config)


def to_json(config: Config) -> dict[str, Any]:
    """Return the resolved config as JSON-ready values."""
    return config_json.to_json(config)


def from_json(data: dict[str, Any]) -> Config:
    """Return the config that `to_json` wrote; InputError where it does not fit this version's fields."""
    return config_json.from_json(data, Config, "experiment")


def _check_factored(config: Config) -> None:
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


def _check_template(model: ModelConfig) -> None:
    """Raise InputError where the filler alone makes a fact that is not stored count as diverged, before any step."""
    n_tokens, of_count = 3, math.log(model.n_filler)
    loss, limit = model.template_strength / n_tokens + of_count, n_tokens * (MAX_LOSS - of_count)
    if loss >= MAX_LOSS:
        raise InputError(
            f"--model.template-strength is {model.template_strength:g}: a fact that is not stored begins at a loss of "
            f"{loss:.0f} nats, and {MAX_LOSS:.0f} count as diverged.\nTake less than {limit:.0f}."
        )


def _check_fresh_relation(config: Config) -> None:
    if config.model.value_share:
        raise InputError("a fresh relation token has no value only with --model.value-share 0.")
    if config.model.parametrisation == "dense" and "everything" in (config.pretrain.train, config.finetune.train):
        raise InputError(
            "fresh_relation in the dense model trains attention only.\nUse --model.parametrisation factored."
        )
