"""The curriculum that R9's bound is for: each step on the facts of largest force."""

from dataclasses import replace

import numpy as np
import pytest

from core import split
from theory import curriculum, measure


@pytest.fixture(scope="module")
def one(simulations):
    return simulations[0]


@pytest.fixture(scope="module")
def parts(one):
    train, held_out = (np.flatnonzero(one.split.role == role) for role in (split.TRAIN, split.HELD_OUT))
    return one.weights["base"], one.store, train, held_out


def led(config, parts, n):
    base, store, train, held_out = parts
    return curriculum.run(config, base, store, train, held_out, n)


def test_a_curriculum_of_all_facts_is_full_batches_of_all(small, one, parts):
    """Nothing is chosen: finetuning on the whole set without the noise of its batches, which R5 foretells."""
    end = led(small, parts, len(parts[2]))
    path = measure.predicted_path(small, one, "whole")
    assert end.subject_share == pytest.approx(path.share[-1], abs=0.01)
    assert end.accuracy == pytest.approx(float(one.traces["whole"].measured.accuracy[-1]), abs=0.05)


def test_facts_of_largest_force_lead_further_than_all(small, parts):
    ends = [led(small, parts, n) for n in (600, 300, 100)]
    shares = [end.subject_share for end in ends]
    assert shares == sorted(shares) and shares[-1] > shares[0] + 0.02


def test_without_steps_nothing_has_moved(small, parts):
    still = replace(small, finetune=replace(small.finetune, steps=1, learning_rate=1e-12))
    assert led(still, parts, 10).subject_share == pytest.approx(0.5)
