"""The remedies of both flows: off by default, refused out of range, and each with its part in either flow."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from core import config_json, remedies
from core.errors import InputError
from core.remedies import Remedies

NAMES = ["early_stopping", "kl_weight", "curriculum", "replay", "known_weight"]


def test_every_setting_is_a_remedy_and_off_unless_it_is_asked_for():
    assert [field.name for field in fields(Remedies) if field.metadata["is_remedy"]] == NAMES
    assert len(fields(Remedies)) == len(NAMES) and config_json.remedies(Remedies()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kl_weight": -1.0}, "--finetune.kl-weight is -1.0: .* at least 0"),
        ({"kl_weight": math.nan}, "--finetune.kl-weight is nan"),
        ({"kl_weight": math.inf}, "--finetune.kl-weight is inf"),
        ({"replay": -0.1}, "--finetune.replay is -0.1"),
        ({"replay": 1.1}, "--finetune.replay is 1.1: .* between 0 and 1"),
        ({"known_weight": -1.0}, "--finetune.known-weight is -1.0: .* at least 0"),
        ({"known_weight": math.inf}, "--finetune.known-weight is inf"),
        ({"known_weight": 1.0, "curriculum": "known_last"}, "known-weight and --finetune.curriculum both"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_flag(changes, named):
    remedies.check(Remedies())
    with pytest.raises(InputError, match=named):
        remedies.check(replace(Remedies(), **changes))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0])
def test_weights_by_knownness_are_the_power_of_the_percentile_rank_and_one_in_the_mean(power):
    knownness = np.random.default_rng(0).normal(size=200)
    found = remedies.known_weights(knownness, power)
    percentile = (np.argsort(np.argsort(knownness)) + 0.5) / 200
    assert found.mean() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found, (1 + power) * percentile**power, atol=0.02 if power != 1 else 1e-12)


def test_equally_known_facts_weigh_alike_as_much_as_their_ranks_together():
    found = remedies.known_weights(np.array([0.5, 0.0, 0.5, 1.0]), 2.0)
    apart = remedies.known_weights(np.array([0.5, 0.0, 0.6, 1.0]), 2.0)
    np.testing.assert_allclose(found, [apart[[0, 2]].mean(), apart[1], apart[[0, 2]].mean(), apart[3]])
    np.testing.assert_array_equal(remedies.known_weights(np.zeros(5), 4.0), np.ones(5))


def test_early_stopping_without_dev_facts_is_refused_with_the_flag_that_gives_them():
    remedies.check_dev(Remedies(), 0.0)
    remedies.check_dev(Remedies(early_stopping=True), 0.1)
    with pytest.raises(InputError, match="early-stopping needs dev facts.\nAdd --split.dev"):
        remedies.check_dev(Remedies(early_stopping=True), 0.0)


def test_both_flows_have_the_same_remedies_by_the_same_flags_and_each_does_something():
    pytest.importorskip("transformers")
    from empirical.finetune import FinetuneConfig as OfLanguageModel
    from empirical.lm.remedies import HOOKS
    from theory import remedies as toy
    from theory.finetune import FinetuneConfig as OfToy

    assert issubclass(OfToy, Remedies) and issubclass(OfLanguageModel, Remedies)
    for config, parts in ((OfLanguageModel, HOOKS), (OfToy, toy.REMEDIES)):
        assert set(parts) == {field.name for field in fields(config) if field.metadata.get("is_remedy")}
