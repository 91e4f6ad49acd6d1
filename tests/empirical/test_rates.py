"""Rates that are tried: which is taken, what is stored of each, and that the best one's weights are those trained."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.split import DEV, SplitConfig
from empirical import evaluate, finetune, study
from empirical.config import Config
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import model as models
from empirical.lm import train
from empirical.lm.train import TrainConfig
from empirical.pretrain import PretrainConfig
from empirical.rates import Trial
from empirical.worlds.world import Exposure, WorldConfig

RATES = (1e-1, 1e-3, 1e-2)
CONFIG = Config(
    world=WorldConfig(
        n_subjects=40, n_relations=2, facts_per_subject=1, n_answers=5, exposure=Exposure(low=0.5, high=4.0)
    ),
    pretrain=PretrainConfig(d_model=16, layers=1, heads=2, key_value_heads=1, vocabulary=400, n_probes=1),
    split=SplitConfig(held_out=0.4, dev=0.2),
    finetune=FinetuneConfig(learning_rates=RATES, train=TrainConfig(epochs=1, batch_size=8, n_records=1)),
    evaluate=EvaluateConfig(max_new_tokens=2),
)


def quiet(doing, share):
    pass


@pytest.fixture(scope="module")
def study_of(tmp_path_factory):
    """Return base model, questions and the rows of an arm."""
    base = study.base(CONFIG, None, tmp_path_factory.mktemp("base"), seed=0, progress=quiet)
    questions, halves, _ = study.questions(CONFIG, base, tmp_path_factory.mktemp("asked"), seed=0)
    return base, questions, halves.arms["top"]


def _stub(monkeypatch, accuracy):
    """Let each rate answer such a share right, or diverge (None); returns what was tuned and asked."""
    tuned, put = [], []

    def tune(config, one, asked, own, *, rate, seed, work, progress):
        tuned.append((rate, seed, work.name))
        if accuracy[rate] is None:
            raise finetune.DivergedError(f"rate {rate} diverged")
        return replace(one.load(), name=str(rate)), []

    def answer(config, model, facts, encoded, **more):
        put.append([fact.id for fact in facts])
        n = len(facts)
        right = np.arange(n) < accuracy[float(model.name)] * n
        rules: dict[str, Any] = dict.fromkeys(evaluate.RULES, [None] * n)
        numbers = dict.fromkeys(("logprob", "text_logprob", "predicted_probability"), np.zeros(n))
        return evaluate.Answers([""] * n, right, **rules, **numbers)

    monkeypatch.setattr(study, "tune", tune)
    monkeypatch.setattr(models, "measured", lambda model: model)
    monkeypatch.setattr(evaluate, "answer", answer)
    return tuned, put


@pytest.mark.parametrize(
    ("accuracy", "best"), [({1e-3: 0.25, 1e-2: 0.5, 1e-1: 0.0}, 1e-2), ({1e-3: 0.5, 1e-2: 0.5, 1e-1: 0.5}, 1e-3)]
)
def test_the_rate_that_answers_most_dev_facts_is_taken_and_of_equals_the_lowest(
    study_of, tmp_path, monkeypatch, accuracy, best
):
    tuned, put = _stub(monkeypatch, accuracy)
    trial = Trial(CONFIG, *study_of, work=tmp_path)
    found = trial.all(quiet)
    assert found == (best, {f"{rate:g}": share for rate, share in accuracy.items()}, [])
    assert [seed for _, seed, _ in tuned] == [0] * 3 and len({folder for _, _, folder in tuned}) == 3
    base, questions, _ = study_of
    dev = [base.facts[row].id for row in np.flatnonzero(questions.role == DEV)]
    held_out = [base.facts[row].id for row in questions.held_out]
    assert put == [dev, held_out] * 3
    stored = {table["learning_rate"]: float(np.mean(table["correct"])) for table in trial.table("top")}
    assert stored == pytest.approx(accuracy, abs=0.5 / len(held_out))
    assert trial.all(quiet) == found and len(tuned) == 3  # from what is kept


def test_a_single_rate_is_taken_untried(study_of, tmp_path, monkeypatch):
    tuned, _ = _stub(monkeypatch, {})
    config = replace(CONFIG, finetune=replace(CONFIG.finetune, learning_rates=(0.5,)))
    trial = Trial(config, *study_of, work=tmp_path)
    assert trial.all(quiet) == (0.5, {}, []) and not tuned and not trial.table("top")


def test_a_rate_that_diverges_answers_nothing_and_all_of_them_are_an_error(study_of, tmp_path, monkeypatch):
    _stub(monkeypatch, {1e-3: 0.0, 1e-2: None, 1e-1: None})
    found = Trial(CONFIG, *study_of, work=tmp_path / "one").all(quiet)
    assert found == (1e-3, {"0.001": 0.0, "0.01": 0.0, "0.1": 0.0}, ["0.01", "0.1"])
    _stub(monkeypatch, dict.fromkeys(RATES))
    with pytest.raises(InputError, match=r"every rate: 0.001, 0.01, 0.1.(.|\n)*--finetune.learning-rates"):
        Trial(CONFIG, *study_of, work=tmp_path / "all").all(quiet)


@pytest.mark.parametrize("changes", [{}, {"method": "lora", "lora": Lora(dropout=0.1)}, {"frozen": ("mlp",)}])
def test_the_best_rates_model_is_kept_as_it_was_trained_and_the_others_are_not(
    study_of, tmp_path, monkeypatch, changes
):
    base, questions, own = study_of
    config = replace(CONFIG, finetune=replace(CONFIG.finetune, **changes))
    trial = Trial(config, base, questions, own, tmp_path / "tried", keeps=True)
    rate = trial.all(quiet).learning_rate
    assert [path.name for path in trial.work.glob("*.pt")] == [f"tuned_{rate:g}.pt"]
    expected, trace = study.tune(
        config, base, questions, own, rate=rate, seed=0, work=tmp_path / "anew", progress=quiet
    )
    weights = copy.deepcopy(expected.network.state_dict())
    monkeypatch.setattr(train, "fit", lambda *_, **__: pytest.fail("trained"))
    kept = trial.tuned(rate, quiet)
    assert kept is not None and kept.trace == trace and kept.seconds > 0 and not kept.model.network.training
    found = kept.model.network.state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
