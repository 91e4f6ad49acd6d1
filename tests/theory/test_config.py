import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import config_json
from core.errors import InputError
from core.facts.store import Background
from core.split import SplitConfig
from theory import config as configs
from theory.config import Config
from theory.experiments import EXPERIMENTS, NEEDS_TABLE
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.model.config import ModelConfig
from theory.pretrain import PretrainConfig


def through_json(config: Config) -> Config:
    return configs.from_json(json.loads(json.dumps(configs.to_json(config), allow_nan=False)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_valid_has_a_sentence_and_survives_json(name):
    sentence, config = EXPERIMENTS[name]
    configs.check(config)
    assert sentence.endswith(".") and sentence[0].isupper()
    assert through_json(config) == config
    assert through_json(config).facts.background == config.facts.background


def test_no_two_experiments_are_the_same_and_those_on_tables_say_so():
    assert len({str(config) for _, config in EXPERIMENTS.values()}) == len(EXPERIMENTS)
    for name in NEEDS_TABLE:
        assert "--facts.path" in EXPERIMENTS[name][0]


@settings(max_examples=20)
@given(
    path=st.sampled_from([None, Path("a b/é.tsv")]),
    where=st.none() | st.text(),
    relations=st.lists(st.text(), max_size=2).map(tuple),
    learning_rate=st.floats(1e-9, 1e9),
    steps=st.integers(1, 10**9),
)
def test_any_config_survives_json(path, where, relations, learning_rate, steps):
    facts = FactsConfig(path=path, where=where, relations=relations)
    config = Config(facts=facts, pretrain=PretrainConfig(learning_rate=learning_rate, steps=steps))
    assert through_json(config) == config


def test_a_config_stored_before_facts_had_a_source_is_that_of_a_table():
    config = Config(facts=FactsConfig(path=Path("popqa.tsv"), where="a=b"))
    stored = configs.to_json(config)
    assert not {"source", "part", "relations", "buckets"} & stored["facts"].keys()
    assert configs.from_json(stored).facts.source == "table"
    assert config_json.plain(config) == config_json.plain(stored), "so that a finished run is found done"
    other = replace(config, facts=replace(config.facts, source="entity_questions", buckets=Path("rand_ent")))
    assert through_json(other) == other
    assert config_json.config_hash(other) != config_json.config_hash(config)


def test_json_of_another_version_is_an_input_error_that_names_the_field():
    stored = configs.to_json(Config())
    stored["finetune"]["momentum"] = 0.9
    stored["pretrain"]["steps"] = "many"
    with pytest.raises(InputError) as caught:
        configs.from_json(stored)
    assert "momentum" in str(caught.value) and "pretrain.steps" in str(caught.value)
    assert "Name the experiment instead of --from-run." in str(caught.value)


DENSE = ModelConfig(parametrisation="dense")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Config(pretrain=PretrainConfig(steps=0)), "--pretrain.steps is 0: it must be at least 1."),
        (Config(pretrain=PretrainConfig(batch_size=-1)), "--pretrain.batch-size is -1"),
        (Config(finetune=FinetuneConfig(steps=0)), "--finetune.steps is 0"),
        (Config(finetune=FinetuneConfig(batch_size=0)), "--finetune.batch-size is 0"),
        (Config(n_records=0), "--n-records is 0"),
        (
            Config(pretrain=PretrainConfig(learning_rate=0.0)),
            "--pretrain.learning-rate is 0.0: .* a positive number, at",
        ),
        (Config(finetune=FinetuneConfig(learning_rate=-1.0)), "--finetune.learning-rate is -1.0"),
        (Config(finetune=FinetuneConfig(learning_rate=math.nan)), "--finetune.learning-rate is nan"),
        (Config(finetune=FinetuneConfig(value_learning_rate=math.inf)), "--finetune.value-learning-rate is inf"),
        (
            Config(pretrain=PretrainConfig(learning_rate=1e39)),
            r"--pretrain.learning-rate is 1e\+39: .* most 1,000,000",
        ),
        (
            Config(finetune=FinetuneConfig(learning_rate=1e20)),
            r"--finetune.learning-rate is 1e\+20: .* most 1,000,000",
        ),
        (Config(finetune=FinetuneConfig(value_learning_rate=2e6)), "--finetune.value-learning-rate is 2000000.0"),
        (Config(model=ModelConfig(template_strength=math.nan)), "--model.template-strength is nan"),
        (Config(model=ModelConfig(template_strength=-math.inf)), "--model.template-strength is -inf"),
        (
            Config(model=ModelConfig(template_strength=280.0)),
            "--model.template-strength is 280: .* a loss of 97 nats, and 80 count as diverged.\nTake less than 228.",
        ),
        (Config(model=replace(DENSE, template_strength=240.0, n_filler=1)), "Take less than 240."),
        (Config(model=ModelConfig(shared_share=1.0)), "--model.shared-share is 1.0"),
        (Config(model=ModelConfig(n_filler=0)), "--model.n-filler is 0"),
        (
            Config(model=ModelConfig(shared_share=1.5)),
            "--model.shared-share is 1.5: it must be at least 0 and below 1.",
        ),
        (Config(model=ModelConfig(value_share=-0.1)), "--model.value-share is -0.1"),
        (
            Config(model=ModelConfig(embeddings="random")),
            "--model.embeddings random: .*\nAdd --model.parametrisation dense.",
        ),
        (Config(model=ModelConfig(dimension=7)), "--model.dimension: "),
        (Config(model=replace(DENSE, embeddings="random", dimension=1)), "--model.dimension is 1: .* at least 2"),
        (Config(pretrain=PretrainConfig(optimizer="adam")), "--pretrain.optimizer adam: "),
        (Config(pretrain=PretrainConfig(train="everything")), "--pretrain.train everything: "),
        (
            Config(finetune=FinetuneConfig(optimizer="adam")),
            "--finetune.optimizer adam: not for the factored model.",
        ),
        (
            Config(model=ModelConfig(value_share=0.1), finetune=FinetuneConfig(prompt="fresh_relation")),
            "--model.value-share 0",
        ),
        (
            Config(model=DENSE, finetune=FinetuneConfig(prompt="fresh_relation", train="everything")),
            "fresh_relation in the dense model",
        ),
        (Config(split=SplitConfig(held_out=0.0)), "--split.held-out is 0: that leaves nothing to test."),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_their_flag(config, named):
    with pytest.raises(InputError, match=named):
        configs.check(config)


@pytest.mark.parametrize(
    "config",
    [
        Config(
            model=replace(DENSE, embeddings="random"), pretrain=PretrainConfig(optimizer="adam", train="everything")
        ),
        Config(model=ModelConfig(shared_share=0.0, value_share=1.0)),
        Config(finetune=FinetuneConfig(prompt="fresh_relation", train="everything")),
        Config(model=ModelConfig(template_strength=228.0)),
        Config(model=ModelConfig(template_strength=280.0), finetune=FinetuneConfig(prompt="bare")),
        Config(facts=FactsConfig(background=Background(size=2.0)), split=SplitConfig(dev=0.1)),
    ],
)
def test_settings_that_mean_something_are_accepted(config):
    configs.check(config)
