"""The whole study's configuration: the stages' own, nested."""

from dataclasses import dataclass, field
from typing import Any

from core import arms as other_arms
from core import config_json, remedies, split
from core.config_json import setting
from core.errors import InputError
from core.split import ARMS, SplitConfig
from empirical import arm as of_arm
from empirical import evaluate, facts, finetune, knownness, mediation, pretrain
from empirical.evaluate import EvaluateConfig
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm.model import ModelConfig
from empirical.mediation import MediationConfig
from empirical.pretrain import PretrainConfig
from empirical.worlds import world
from empirical.worlds.world import WorldConfig


@dataclass(frozen=True)
class Config:
    """One study: facts, a model that knows them more or less, and what is done to it."""

    facts: FactsConfig = field(default_factory=FactsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    knownness: KnownnessConfig = field(default_factory=KnownnessConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    split: SplitConfig = field(default_factory=lambda: SplitConfig(held_out=0.4, dev=0.1))
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    """The facts and sentences on which a model of our own is pretrained; not read if --model.name is given."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The model of our own that is pretrained; not read if --model.name is given."""
    arms: tuple[str, ...] = ARMS
    """The arms to finetune: of top, bottom, whole, random (mixture, if --split.known-share is given); by how frequent
    the answer is: common, rare; halves with equally frequent answers: top_matched, bottom_matched; both crossed:
    known_common, known_rare, unknown_common, unknown_rare; by class: highly_known, maybe_known, weakly_known, unknown;
    by size: size_5, size_10, size_25. Any with remedies of its own: bottom+kl_weight=1, bottom+frozen=query_key,mlp."""
    mediation: MediationConfig = setting(MediationConfig(), is_later=True)
    """What of the gap between two arms moves with activations or weights."""

    @property
    def more_arms(self) -> tuple[str, ...]:
        """The sets of facts asked for beside those that every split has."""
        names = dict.fromkeys(map(of_arm.facts_of, self.arms))
        return tuple(name for name in names if name in other_arms.NAMES)

    @property
    def finetunings(self) -> list[FinetuneConfig]:
        """How each of the arms is finetuned, its own remedies included."""
        return [of_arm.finetuning(self.finetune, arm) for arm in self.arms]

    @property
    def pretrains(self) -> bool:
        """Whether the study pretrains its own model."""
        return not self.model.name


def check(config: Config) -> None:
    """Raise InputError for a setting out of range or a combination that means nothing, naming the flags."""
    facts.check(config.facts)
    world.check(config.world)
    pretrain.check(config.pretrain)
    knownness.check(config.knownness)
    split.check(config.split)
    finetune.check(config.finetune)
    evaluate.check(config.evaluate)
    if config.facts.source == "world" and not config.pretrains:
        raise InputError(
            f"{config.model.name} has not been told the facts of a synthetic world.\n"
            "Name questions with --facts.source and --facts.path, or leave --model.name."
        )
    if config.model.chat and config.pretrains:
        raise InputError(
            "--model.chat: the model that a study pretrains has no chat template.\n"
            "Name a chat model with --model.name, or leave the flag."
        )
    if config.model.quantise and config.mediation.pairs:
        raise InputError("--model.quantise: weights of 4 bits are not given from arm to arm.\nLeave --mediation.pairs.")
    if not config.split.held_out:
        raise InputError("--split.held-out is 0: that leaves nothing to test.")
    if len(config.finetune.learning_rates) > 1 and not config.split.dev:
        raise InputError("several --finetune.learning-rates are chosen from on dev facts.\nAdd --split.dev 0.1.")
    allowed, named = (*config.split.names, *other_arms.NAMES), set(map(of_arm.facts_of, config.arms))
    if named & set(other_arms.CLASSES) and not config.knownness.gives_classes:
        raise InputError("arms by class of knownness need the classes.\nAdd --knownness.classes.")
    if not config.arms or len(set(config.arms)) < len(config.arms) or not named <= set(allowed):
        raise InputError(f"--arms {' '.join(config.arms)}: name each of {', '.join(allowed)} once at most.")
    for finetuning in config.finetunings:
        finetune.check(finetuning)
        remedies.check_dev(finetuning, config.split.dev)
    mediation.check_config(config.mediation, config.arms)


def to_json(config: Config) -> dict[str, Any]:
    """Return the resolved config as JSON-ready values."""
    return config_json.to_json(config)


def from_json(data: dict[str, Any]) -> Config:
    """Return the config that `to_json` wrote; InputError where it does not fit this version's fields."""
    return config_json.from_json(data, Config, "study")
