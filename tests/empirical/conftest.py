"""One small model, tokenizer and world for all tests of a process."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.utils import logging

from empirical.lm import tokenizer
from empirical.worlds import corpus, world
from empirical.worlds.world import Exposure, WorldConfig

logging.disable_progress_bar()

TINY_WORLD = WorldConfig(
    n_subjects=60, n_relations=2, facts_per_subject=2, n_answers=6, exposure=Exposure(low=0.5, high=40.0)
)


@pytest.fixture(scope="session")
def tiny_world():
    return world.build(TINY_WORLD, seed=0)


@pytest.fixture(scope="session")
def words(tiny_world):
    """Return a byte-level tokenizer of that world."""
    return tokenizer.train(corpus.vocabulary(tiny_world), size=500)


@pytest.fixture(scope="session")
def sizes(words) -> dict:
    """Return the sizes of small models for that tokenizer."""
    return {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


@pytest.fixture
def llama(sizes):
    """Return a small Llama of random weights, in evaluation mode."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


@pytest.fixture
def mistral(sizes):
    """Return a small Mistral of random weights: grouped queries, a sliding window."""
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**sizes, sliding_window=64)).eval()
