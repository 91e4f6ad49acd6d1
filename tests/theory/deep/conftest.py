"""A deep toy that is trained in seconds."""

import pytest

from core.facts.store import Background
from theory.deep.config import DeepConfig, DeepStage
from theory.facts import FactsConfig


@pytest.fixture(scope="session")
def tiny():
    return DeepConfig(
        facts=FactsConfig(n_subjects=60, n_relations=2, n_answers=5, background=Background(size=0.5, share=0.1)),
        subject_tokens=2,
        name_parts=12,
        heads=2,
        d_model=16,
        d_ff=32,
        n_filler=4,
        pretrain=DeepStage(150, batch_size=64, learning_rate=5e-3),
        finetune=DeepStage(60, batch_size=32, learning_rate=5e-3),
        n_records=3,
    )
