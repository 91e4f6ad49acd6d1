"""The deep toy's settings, and the prompts it reads: subjects of one token or of several shared ones."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from core import arms, config_json
from core.config_json import setting
from core.errors import InputError
from core.facts.store import FactStore
from core.split import SplitConfig
from theory.facts import FactsConfig


@dataclass(frozen=True)
class DeepStage:
    """One training by Adam."""

    steps: int
    """Adam steps."""
    batch_size: int = 128
    """Facts per step."""
    learning_rate: float = 1e-4
    """Adam's rate, constant."""


@dataclass(frozen=True)
class DeepConfig:
    """One experiment: a world, a transformer, and what is done to it."""

    facts: FactsConfig = FactsConfig(n_subjects=500)
    split: SplitConfig = SplitConfig()
    layers: int = 2
    """Blocks of attention and MLP."""
    heads: int = 4
    """Attention heads of a block; they divide d_model."""
    d_model: int = 64
    """Width of the residual stream."""
    d_ff: int = 256
    """Width of the MLPs."""
    subject_tokens: int = 1
    """Tokens of a subject. 1: a token of its own; more: a sequence of name parts, which subjects share."""
    name_parts: int = 60
    """Vocabulary of name parts, where a subject has more than one token. With few parts finetuning overwrites
    what names store."""
    n_filler: int = 50
    """Output tokens that answer no question: what follows the template in pretraining."""
    template_share: float = 0.2
    """Share of pretraining prompts that end in the template, followed by any filler token: the format gap."""
    pretrain: DeepStage = DeepStage(steps=1500)
    """Prompts drawn by exposure. Long pretraining stores rare facts too."""
    finetune: DeepStage = DeepStage(steps=400)
    """Questions drawn uniformly over an arm's facts; every weight is trained."""
    weight_decay: float = 0.0
    """AdamW's, in both trainings; 0 is Adam."""
    n_records: int = 20
    """Points recorded along each training, besides its start."""
    more_arms: tuple[str, ...] = setting((), is_later=True)
    """Arms to finetune beside the split's, as those of the one-layer toy: common, rare, top_matched, bottom_matched,
    known_common, known_rare, unknown_common, unknown_rare, size_5, size_10, size_25."""


class Sizes(NamedTuple):
    """What the network's shape takes from the world."""

    n_names: int
    """Tokens that name subjects."""
    n_relations: int
    n_answers: int


def check(config: DeepConfig) -> None:
    """Raise InputError for settings that mean nothing, naming the flags and the remedy."""
    arms.check(config.more_arms)
    names = ("layers", "heads", "d_model", "d_ff", "subject_tokens", "name_parts", "n_filler", "n_records")
    positive: dict[str, Any] = {name: getattr(config, name) for name in names}
    for name, stage in {"pretrain": config.pretrain, "finetune": config.finetune}.items():
        positive |= {f"{name}.steps": stage.steps, f"{name}.batch_size": stage.batch_size}
        if not 0 < stage.learning_rate < math.inf:
            raise InputError(f"--{name}.learning-rate is {stage.learning_rate}: it must be a positive number.")
    for name, value in positive.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}: it must be at least 1.")
    if config.d_model % config.heads:
        raise InputError(f"--d-model {config.d_model} does not divide into --heads {config.heads}: make it a multiple.")
    if not 0 < config.template_share < 1:
        raise InputError(f"--template-share is {config.template_share}: it must lie between 0 and 1, both excluded.")
    if not 0 <= config.weight_decay < math.inf:
        raise InputError(f"--weight-decay is {config.weight_decay}: it must be a number of at least 0.")
    if config.split.held_out == 0:
        raise InputError("--split.held-out is 0: that leaves nothing to test.")


def sizes(config: DeepConfig, store: FactStore) -> Sizes:
    """Return the sizes of the world's vocabularies."""
    n_names = store.n_subjects if config.subject_tokens == 1 else config.name_parts
    return Sizes(n_names, store.n_relations, store.n_answers)


def name_subjects(config: DeepConfig, n_subjects: int, *, seed: int) -> Int[np.ndarray, "subject token"]:
    """Return each subject's tokens: its own, or a sequence of name parts that no other subject has.

    Raises:
        InputError: there are fewer sequences than subjects.
    """
    if config.subject_tokens == 1:
        return np.arange(n_subjects)[:, None]
    n_names = config.name_parts**config.subject_tokens
    if n_names < n_subjects:
        raise InputError(
            f"--name-parts {config.name_parts} with --subject-tokens {config.subject_tokens} gives {n_names:,} names "
            f"for {n_subjects:,} subjects.\nRaise either."
        )
    rng = np.random.default_rng([seed, 3])
    number = rng.choice(min(n_names, 2**62), n_subjects, replace=False)
    parts = []
    for _ in range(config.subject_tokens):
        number, part = np.divmod(number, config.name_parts)
        parts.append(part)
    return np.column_stack(parts)


def write_prompts(config: DeepConfig, store: FactStore, *, seed: int) -> Int[np.ndarray, "fact token"]:
    """Return each fact's question (subject token, …, relation, template).

    Ids count the names, then the relations, then the template.
    """
    names = name_subjects(config, store.n_subjects, seed=seed)
    n_names, n_relations, _ = sizes(config, store)
    template = np.full(len(store.subject), n_names + n_relations)
    return np.column_stack([names[store.subject], n_names + store.relation, template]).astype(np.int32)


def to_json(config: DeepConfig) -> dict[str, Any]:
    """Return the resolved config as JSON-ready values."""
    return config_json.to_json(config)
