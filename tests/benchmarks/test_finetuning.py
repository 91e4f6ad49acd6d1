"""The benchmark of finetuning on a small model: what it measures, and that both ways train alike."""

import pytest

from benchmarks import finetuning
from core.errors import InputError
from empirical.lm import step, train


def test_a_program_is_measured_step_by_step(model):
    found = finetuning.measure(finetuning.Settings(model, steps=3, batch=4), "answers")
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0
    assert found["tokens"] > 4 * 5 and found["peak_bytes"] > 1e7 and found["faults"] >= 0


def test_logits_of_every_token_give_the_same_loss(model, monkeypatch):
    losses = []
    fit = train.fit

    def kept(*given, **options):
        trace = fit(*given, **options)
        losses.append(trace[-1]["loss"])
        return trace

    monkeypatch.setattr(train, "fit", kept)
    monkeypatch.setattr(step, "answer_logits", step.answer_logits)  # put back afterwards
    for program in ("answers", "everywhere"):
        finetuning.measure(finetuning.Settings(model, steps=3, batch=4), program)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"steps": 1}, "--steps"), ({"programs": ("fast",)}, "--programs fast"), ({"model": "./no"}, "no such folder")],
)
def test_settings_that_mean_nothing_are_refused(model, changes, told):
    with pytest.raises(InputError, match=told):
        finetuning.run(finetuning.Settings(**{"model": model} | changes))
