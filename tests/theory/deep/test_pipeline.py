"""The deep toy's stages: small networks trained together, and each as if alone."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import theory
from core import split
from core.errors import InputError
from theory import facts
from theory.deep import pipeline


@pytest.fixture(scope="module")
def runs(tiny):
    return pipeline.simulate(tiny, [0, 1, 2])


def test_a_seed_is_trained_alike_in_any_company(tiny, runs):
    again = pipeline.simulate(tiny, [2, 9])[0]
    for arm, parameters in again.parameters.items():
        for one, other in zip(*(jax.tree.leaves(tree) for tree in (parameters, runs[2].parameters[arm])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=arm)
        np.testing.assert_allclose(again.traces[arm].loss, runs[2].traces[arm].loss, rtol=1e-5)


def test_every_seed_has_a_world_and_a_network_of_its_own(runs):
    kernels = [run.parameters["base"]["blocks"][0]["up"]["kernel"].ravel() for run in runs]
    assert np.abs(np.corrcoef(kernels) - np.eye(3)).max() < 0.4  # the same start would leave them alike
    assert (runs[0].store.answer != runs[1].store.answer).any()
    assert (runs[0].split.role != runs[1].split.role).any()


def test_pretraining_lowers_the_loss_and_stores_facts(runs):
    for run in runs:
        trace = run.traces["base"]
        np.testing.assert_array_equal(trace.step, [0, 50, 100, 150])
        assert trace.loss[-1] < 0.6 * trace.loss[0]
        assert trace.measured[0] < 0.3 and trace.measured[-1] > 0.6


def test_before_finetuning_the_question_format_is_followed_by_filler(runs):
    for run in runs:
        assert run.traces["top"].measured.accuracy[0] == 0
        assert run.traces["top"].loss[0] > 3


def test_finetuning_teaches_the_question_format_and_moves_attention(runs):
    for run in runs:
        for arm in split.ARMS:
            trace = run.traces[arm]
            assert trace.step[-1] == 60 and trace.loss[-1] < 0.5 * trace.loss[0], arm
            assert trace.measured.accuracy[-1] > 0.2, arm
            assert abs(trace.measured.subject_attention[-1] - trace.measured.subject_attention[0]) > 0.01, arm
            assert (0 < trace.measured.subject_share).all() and (trace.measured.subject_share < 1).all()


def test_all_arms_start_from_the_base_and_part(runs):
    for run in runs:
        start = [run.traces[arm].measured.subject_attention[0] for arm in split.ARMS]
        np.testing.assert_allclose(start, start[0], rtol=1e-5)
        kernels = [np.asarray(run.parameters[arm]["readout"]["kernel"]) for arm in split.ARMS]
        assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(kernels, kernels[1:], strict=False))


def test_the_arms_are_the_theorys_own_by_popularity(tiny, runs):
    store = facts.build(tiny.facts, seed=1)
    columns = store.subject, store.relation, store.popularity
    expected = split.select(*columns, tiny.split, is_background=store.is_background, seed=1)
    assert runs[1].split.arms.keys() == expected.arms.keys()
    for arm, rows in expected.arms.items():
        np.testing.assert_array_equal(runs[1].split.arms[arm], rows)


def test_a_background_is_pretrained_on_and_never_finetuned(runs):
    for run in runs:
        used = np.concatenate(list(run.split.arms.values()))
        assert run.store.is_background.sum() == 60 and not run.store.is_background[used].any()
        assert len(run.prompts) == 120 + 60


@pytest.mark.parametrize(
    ("stage", "named"),
    [
        ("_pretrain", r"pretrain diverged at step 0 \(seed 5\)"),
        ("_finetune", r"finetune diverged at step 0 \(top of s"),
    ],
)
def test_a_training_that_diverges_is_named_with_its_stage_seed_and_remedy(tiny, runs, monkeypatch, stage, named):
    def spoil(parameters):
        return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), parameters)

    fresh, stack = pipeline.initial, pipeline._finetune
    if stage == "_pretrain":
        monkeypatch.setattr(pipeline, "initial", lambda *given, **named: spoil(fresh(*given, **named)))
    else:
        monkeypatch.setattr(pipeline, "_finetune", lambda config, bases, *rest: stack(config, spoil(bases), *rest))
    with pytest.raises(InputError, match=rf"{named}[^\n]*\nLower --{stage[1:]}.learning-rate"):
        pipeline.simulate(tiny, [5, 6])


def test_settings_are_checked_before_anything_is_trained(tiny):
    with pytest.raises(InputError, match="--layers is 0"):
        pipeline.simulate(replace(tiny, layers=0), [0])


def test_facts_are_drawn_by_the_one_function_that_is_uniform_over_any_number_of_them():
    """An arm so large that the difference would show does not fit a test of this toy."""
    draws = {path.name for path in Path(theory.__file__).parent.rglob("*.py") if "randint" in path.read_text()}
    assert draws == {"sampling.py"}
