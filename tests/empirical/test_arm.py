import pytest

from core.errors import InputError
from empirical import arm
from empirical.finetune import FinetuneConfig


def test_an_arm_names_its_facts_and_its_remedies():
    name = "bottom+kl_weight=1+frozen=query_key,mlp+early_stopping=true+curriculum=known_last+frozen_layers=2"
    assert arm.finetuning(FinetuneConfig(), "top+answers=permuted") == FinetuneConfig(answers="permuted")
    assert arm.finetuning(FinetuneConfig(), "whole+steps=half") == FinetuneConfig(steps="half")
    assert arm.facts_of(name) == "bottom" and arm.facts_of("top") == "top"
    assert arm.finetuning(FinetuneConfig(), "top") == FinetuneConfig()
    made = arm.finetuning(FinetuneConfig(method="lora", replay=0.1), name)
    assert made == FinetuneConfig(
        method="lora",
        replay=0.1,
        kl_weight=1.0,
        frozen=("query_key", "mlp"),
        early_stopping=True,
        curriculum="known_last",
        frozen_layers=2,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bottom+hat=1", "'hat=1' is no remedy"),
        ("bottom+method=lora", "'method=lora' is no remedy"),
        ("bottom+replay", "'replay' is no remedy"),
        ("bottom+replay=much", "replay is 'much', it must be a number"),
        ("bottom+early_stopping=yes", "it must be true"),
        ("bottom+frozen_layers=1.5", "it must be a number"),
        ("bottom+answers=odd", "answers is 'odd', it must be true or permuted or base or abstain"),
        ("whole+steps=10", "steps is '10', it must be epochs or half"),
        ("bottom+curriculum=odd", "it must be mixed or known_first or known_last"),
    ],
)
def test_what_is_no_remedy_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        arm.finetuning(FinetuneConfig(), name)
