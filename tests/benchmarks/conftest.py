"""What several benchmarks are tried on."""

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return the folder of a small Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from empirical.lm import tokenizer
    from empirical.worlds import corpus, world
    from empirical.worlds.world import WorldConfig

    folder = tmp_path_factory.mktemp("model")
    words = tokenizer.train(corpus.vocabulary(world.build(WorldConfig(n_subjects=50), seed=0)), size=400)
    torch.manual_seed(0)
    sizes: dict = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
