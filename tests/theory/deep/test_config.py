"""The deep toy's settings, and the prompts that it reads."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core import config_json
from core.errors import InputError
from core.split import SplitConfig
from theory import facts
from theory.deep import config as deep_config
from theory.deep.config import DeepConfig, DeepStage
from theory.facts import FactsConfig

NAMED = DeepConfig(facts=FactsConfig(n_subjects=60, n_answers=4), subject_tokens=2, name_parts=9)


def test_subjects_of_several_tokens_are_distinct_sequences_of_shared_parts():
    names = deep_config.name_subjects(NAMED, 60, seed=0)
    assert names.shape == (60, 2)
    assert len(np.unique(names, axis=0)) == 60
    assert names.min() == 0 and names.max() == 8
    assert all(len(np.unique(column)) == 9 for column in names.T)


def test_as_many_subjects_as_there_are_sequences_can_be_named():
    names = deep_config.name_subjects(replace(NAMED, name_parts=4, subject_tokens=3), 64, seed=0)
    assert len(np.unique(names, axis=0)) == 64


def test_names_depend_on_the_seed_alone():
    first, again, other = (deep_config.name_subjects(NAMED, 60, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_subject_of_one_token_has_a_token_of_its_own():
    np.testing.assert_array_equal(deep_config.name_subjects(DeepConfig(), 5, seed=0)[:, 0], range(5))


@pytest.mark.parametrize("config", [NAMED, replace(NAMED, subject_tokens=1)])
def test_a_prompt_is_the_subject_the_relation_and_the_template(config):
    store = facts.build(config.facts, seed=0)
    prompts = deep_config.write_prompts(config, store, seed=0)
    names = deep_config.name_subjects(config, store.n_subjects, seed=0)
    n_names = deep_config.sizes(config, store).n_names
    assert n_names == (9 if config.subject_tokens == 2 else 60)
    np.testing.assert_array_equal(prompts[:, :-2], names[store.subject])
    np.testing.assert_array_equal(prompts[:, -2], n_names + store.relation)
    assert (prompts[:, -1] == n_names + store.n_relations).all()
    assert len(np.unique(prompts, axis=0)) == len(store.subject)


def test_too_few_sequences_for_the_subjects_are_refused():
    with pytest.raises(InputError, match="--name-parts 7 with --subject-tokens 2 gives 49 names for 60 subjects"):
        deep_config.name_subjects(replace(NAMED, name_parts=7), 60, seed=0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layers": 0}, "--layers is 0"),
        ({"heads": 0}, "--heads is 0"),
        ({"subject_tokens": 0}, "--subject-tokens is 0"),
        ({"n_filler": 0}, "--n-filler is 0"),
        ({"n_records": 0}, "--n-records is 0"),
        ({"d_model": 30}, "--d-model 30 does not divide into --heads 4"),
        ({"template_share": 0.0}, "--template-share is 0.0"),
        ({"template_share": 1.0}, "--template-share is 1.0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0"),
        ({"pretrain": DeepStage(0)}, "--pretrain.steps is 0"),
        ({"finetune": DeepStage(10, batch_size=0)}, "--finetune.batch-size is 0"),
        ({"finetune": DeepStage(10, learning_rate=float("nan"))}, "--finetune.learning-rate is nan"),
        ({"pretrain": DeepStage(10, learning_rate=-1.0)}, "--pretrain.learning-rate is -1.0"),
        ({"split": SplitConfig(held_out=0.0)}, "--split.held-out is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_their_flag(changed, named):
    with pytest.raises(InputError, match=named):
        deep_config.check(replace(DeepConfig(), **changed))


def test_the_default_settings_mean_something():
    deep_config.check(DeepConfig())


def test_the_stored_config_is_json_and_tells_configs_apart():
    stored = [deep_config.to_json(config) for config in (DeepConfig(), DeepConfig(layers=3))]
    assert json.loads(json.dumps(stored[0])) == stored[0]
    assert stored[0]["pretrain"]["batch_size"] == 128 and stored[0]["facts"]["n_subjects"] == 500
    assert config_json.config_hash(stored[0]) != config_json.config_hash(stored[1])
