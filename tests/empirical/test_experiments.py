import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from core.errors import InputError
from empirical import config as configs
from empirical import facts
from empirical.experiments import RELATIONS, SCREEN, STUDIES, TINY, TINY_LORA


@pytest.mark.parametrize("name", STUDIES)
def test_a_named_study_passes_its_checks_once_it_has_its_file_and_survives_json(name):
    sentence, config = STUDIES[name]
    if config.facts.source != "world":
        with pytest.raises(InputError, match="--facts.path"):
            facts.load(config.facts)
        config = replace(config, facts=replace(config.facts, path=Path("file")))
    configs.check(config)
    assert sentence.endswith((".", ")")) and config.pretrains == name.startswith("tiny")
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_name_says_its_model_and_its_questions(name):
    _, config = STUDIES[name]
    known = {"tiny": "", "llama-2-7b": "meta-llama/Llama-2-7b-hf", "mistral-7b": "mistralai/Mistral-7B-v0.1"}
    known |= {model: f"package:{model}" for model in RELATIONS}
    (model,) = (model for model in known if name.startswith(model))
    assert config.model.name == known[model]
    questions = name.removeprefix(model)
    for purpose in ("-small", "-mediation", "-remedies", "-labels", "-crossed"):
        questions = questions.removesuffix(purpose)
    questions = questions.strip("-").replace("-", "_")
    assert config.facts.source == {"": "world", "lora": "world"}.get(questions, questions)


def test_studies_of_an_adapter_train_one_and_tiny_ones_differ_in_that_and_the_rates_alone():
    assert {name for name, (_, config) in STUDIES.items() if config.finetune.method == "lora"} == {
        name for name in STUDIES if name == "tiny-lora" or "-7b-" in name or "-1.5b-" in name
    }
    changed = {one.name for one in fields(TINY) if getattr(TINY, one.name) != getattr(TINY_LORA, one.name)}
    assert changed == {"finetune"}
    assert replace(TINY_LORA.finetune, method="full", learning_rates=TINY.finetune.learning_rates) == TINY.finetune


def test_mediation_studies_are_their_models_own_with_two_arms_and_interventions():
    for name in (name for name in STUDIES if name.endswith("-mediation")):
        config, own = STUDIES[name][1], STUDIES[name.removesuffix("-mediation")][1]
        assert config.mediation.arms == set(config.arms) == {"top", "bottom"}
        assert (config.finetune, config.model, config.knownness) == (own.finetune, own.model, own.knownness)


def test_real_questions_are_halved_within_relation_and_letters_ranked_by_their_margin():
    for name, (_, config) in STUDIES.items():
        if config.facts.source in ("popqa", "entity_questions"):
            assert config.split.within_relation, name
        if config.facts.source == "mmlu":
            assert config.knownness.measure == "logprob", name


def test_studies_choose_rates_on_dev_facts_that_are_neither_trained_nor_tested():
    for config in (SCREEN, *(config for _, config in STUDIES.values())):
        assert len(config.finetune.learning_rates) == 1 or config.split.dev > 0
