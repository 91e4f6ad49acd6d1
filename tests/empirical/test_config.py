import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import InputError
from core.facts.store import Background
from core.split import SplitConfig
from empirical import config as configs
from empirical.config import Config
from empirical.evaluate import EvaluateConfig
from empirical.experiments import TINY
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.knownness import KnownnessConfig
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig
from empirical.pretrain import PretrainConfig
from empirical.worlds.world import Exposure, WorldConfig

CHANGED = Config(
    facts=FactsConfig(
        source="entity_questions", path=Path("a/b"), relations=("P17", "P36"), buckets=Path("c"), limit=7
    ),
    world=WorldConfig(background=Background(size=2.0), exposure=Exposure(by="popularity")),
    model=ModelConfig("some/model", "abc", "bfloat16", chat=True),
    split=SplitConfig(known_share=0.5, within_relation=True),
    finetune=FinetuneConfig(method="lora", learning_rates=(1e-5, 2e-4), lora=Lora(modules=("q_proj",))),
    arms=("mixture", "top"),
)


def _flags(stored, prefix="--"):
    """Return the flags of a stored config: its keys, and those of the parts that they stand for."""
    for key, value in stored.items():
        name = prefix + key.replace("_", "-")
        yield name
        if isinstance(value, dict):
            yield from _flags(value, f"{name}.")


def test_every_field_survives_json():
    for config in (Config(), CHANGED):
        stored = json.loads(json.dumps(configs.to_json(config), allow_nan=False))
        assert configs.from_json(stored) == config


def test_an_unknown_key_or_value_of_a_stored_config_is_refused():
    stored = configs.to_json(TINY)
    for changed in (
        stored | {"finetuning": {}},
        stored | {"facts": stored["facts"] | {"source": "wikipedia"}},
        stored | {"finetune": stored["finetune"] | {"train": stored["finetune"]["train"] | {"epoch": 3}}},
    ):
        with pytest.raises(InputError, match=r"does not fit this version(.|\n)*--from-run"):
            configs.from_json(changed)


def test_a_study_without_a_named_model_pretrains_its_own():
    assert Config().pretrains and not CHANGED.pretrains


def test_a_chat_model_must_be_named():
    with pytest.raises(InputError, match=r"--model.chat: .*\n.*--model.name"):
        configs.check(replace(TINY, model=ModelConfig(chat=True)))


def test_a_mixture_is_an_arm_where_its_share_is_given():
    configs.check(replace(TINY, split=replace(TINY.split, known_share=0.5), arms=("mixture", "top")))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"facts": FactsConfig(path=Path("x"))}, "--facts.path"),
        ({"facts": FactsConfig(limit=0)}, "--facts.limit"),
        ({"model": ModelConfig("some/model")}, "--model.name"),
        ({"world": WorldConfig(n_subjects=0)}, "--world.n-subjects"),
        ({"world": WorldConfig(facts_per_subject=9)}, "--world.facts-per-subject"),
        ({"world": WorldConfig(background=Background(share=1.0))}, "--world.background.share"),
        ({"world": WorldConfig(exposure=Exposure(low=9.0, high=8.0))}, "--world.exposure.low"),
        ({"pretrain": PretrainConfig(d_model=30)}, "--pretrain.d-model"),
        ({"pretrain": PretrainConfig(vocabulary=99)}, "--pretrain.vocabulary"),
        ({"knownness": KnownnessConfig(shots=-1)}, "--knownness.shots"),
        ({"knownness": KnownnessConfig(temperature=0.0)}, "--knownness.temperature"),
        ({"split": SplitConfig(held_out=0.0)}, "--split.held-out"),
        ({"split": SplitConfig(held_out=0.6, dev=0.5)}, "--split.dev"),
        ({"split": SplitConfig(held_out=0.4, dev=0.0)}, "--split.dev"),
        ({"finetune": FinetuneConfig(learning_rates=())}, "--finetune.learning-rates"),
        ({"finetune": FinetuneConfig(lora=Lora(rank=0))}, "--finetune.lora"),
        ({"finetune": FinetuneConfig(train=TrainConfig(batch_size=0))}, "--finetune.train.batch-size"),
        ({"finetune": FinetuneConfig(train=TrainConfig(weight_decay=-1.0))}, "--finetune.train"),
        ({"finetune": FinetuneConfig(kl_weight=-0.1)}, "--finetune.kl-weight"),
        ({"finetune": FinetuneConfig(replay=1.1)}, "--finetune.replay"),
        (
            {"finetune": FinetuneConfig(early_stopping=True), "split": SplitConfig(held_out=0.4, dev=0.0)},
            "--finetune.early-stopping",
        ),
        ({"evaluate": EvaluateConfig(batch_size=0)}, "--evaluate.batch-size"),
        ({"arms": ()}, "--arms"),
        ({"arms": ("top", "top")}, "--arms"),
        ({"arms": ("top", "middle")}, "--arms"),
        ({"arms": ("mixture",)}, "--arms"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_a_flag_that_there_is(changes, flag):
    with pytest.raises(InputError) as caught:
        configs.check(replace(TINY, **changes))
    named = re.findall(r"--[\w.-]*\w", str(caught.value))
    assert flag in named and set(named) <= set(_flags(configs.to_json(TINY)))
    assert len(str(caught.value).splitlines()) <= 2
