from pathlib import Path

import numpy as np
import pytest

from core import effects
from core.runs import Run


def run(world: int, seed: int = 0, /, **arms: float) -> Run:
    metrics = {
        arm: {"accuracy": share, "retention": 2 * share, "train_accuracy": 1.0, "subject_attention": 0.1}
        for arm, share in arms.items()
    }
    seconds = {arm: 10.0 + 5 * arm.count("+") for arm in arms}
    seeds = {"pretrain": world, "split": 0, "seed": seed}
    return Run(Path("run"), {"seeds": seeds, "metrics": metrics, "seconds": seconds})


def test_an_effect_is_the_remedied_arm_less_the_same_without_paired_by_base_model():
    made = [
        run(0, 0, top=0.5, bottom=0.2, **{"bottom+replay=0.1": 0.3}),
        run(0, 1, top=0.5, bottom=0.4, **{"bottom+replay=0.1": 0.4}),
        run(1, 0, top=0.7, bottom=0.5, **{"bottom+replay=0.1": 0.65}),
    ]
    (effect,) = effects.of_runs(made)
    assert (effect.arm, effect.remedy, effect.seconds) == ("bottom", "replay=0.1", 1.5)
    assert effect.accuracy.mean == pytest.approx(0.1) and effect.retention.mean == pytest.approx(0.2)
    assert effect.accuracy.high - 0.1 == pytest.approx(12.706 * 0.05, rel=1e-3)
    # Gaps of 0.2 and 0.2, of which 0.05 and 0.15 are closed.
    assert effect.closed.mean == pytest.approx(0.5) and effect.train_accuracy.mean == 0


def test_of_one_base_model_there_is_no_interval_and_without_top_no_gap():
    (effect,) = effects.of_runs([run(0, bottom=0.2, **{"bottom+frozen=mlp": 0.3})])
    assert effect.accuracy.mean == pytest.approx(0.1) and np.isnan(effect.accuracy.low)
    assert np.isnan(effect.closed.mean) and effects.of_runs([run(0, top=0.5, bottom=0.2)]) == []
