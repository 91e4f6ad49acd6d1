import json
from dataclasses import replace
from pathlib import Path

import pytest

from empirical import config as configs
from empirical.experiments import STUDIES, TINY, WINDOW
from empirical.facts import FactsConfig
from empirical.model import ModelConfig
from theory.errors import InputError
from theory.split import SplitConfig


@pytest.mark.parametrize("name", STUDIES)
def test_a_named_study_passes_its_checks_once_it_has_its_file_and_survives_json(name):
    sentence, config = STUDIES[name]
    if config.facts.source != "world":
        with pytest.raises(InputError, match="--facts.path"):
            configs.check(config)
        config = replace(config, facts=replace(config.facts, path=Path("file")))
    configs.check(config)
    assert sentence.endswith(".") and config.pretrains == name.startswith("tiny")
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config


def test_studies_choose_rates_on_development_facts_that_are_neither_trained_nor_tested():
    for config in (WINDOW, *(config for _, config in STUDIES.values())):
        assert len(config.finetune.learning_rates) == 1 or config.split.development > 0


def test_an_unknown_key_of_a_stored_config_is_refused():
    stored = configs.to_json(TINY)
    with pytest.raises(InputError, match="does not fit this version"):
        configs.from_json(stored | {"finetuning": {}})
    with pytest.raises(InputError, match="does not fit this version"):
        configs.from_json(stored | {"facts": stored["facts"] | {"source": "wikipedia"}})


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"facts": FactsConfig(path=Path("x"))}, "--facts.path"),
        ({"facts": FactsConfig(source="popqa")}, "--facts.path"),
        ({"facts": FactsConfig(limit=0)}, "--facts.limit"),
        ({"model": ModelConfig("some/model")}, "--model.name"),
        ({"split": SplitConfig(held_out=0.0)}, "held"),
        ({"split": SplitConfig(held_out=0.4, development=0.0)}, "--split.development"),
        ({"arms": ()}, "--arms"),
        ({"arms": ("top", "top")}, "--arms"),
        ({"arms": ("top", "middle")}, "--arms"),
        ({"arms": ("mixture",)}, "--arms"),
    ],
)
def test_a_combination_that_means_nothing_names_its_flag(changes, flag):
    with pytest.raises(InputError, match=flag):
        configs.check(replace(TINY, **changes))
