"""Logits at chosen places are those of a whole pass, whatever an architecture does to them, and so are gradients."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from empirical import finetune
from empirical.finetune import Lora
from empirical.lm import logits

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 3.0},
    "gemma3_text": {},
    "granite": {"logits_scaling": 5.0},
    "cohere": {"logit_scale": 0.3},
    "qwen2": {"tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
}


def made(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | ARCHITECTURES[kind])).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn_like(value)
    return model


def some(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 61, (4, 9), generator=generator), torch.rand((4, 9), generator=generator) < 0.3


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_they_are_those_of_a_whole_pass_and_their_gradients_too(kind):
    model, (tokens, wanted) = made(kind), some()
    found = []
    for is_cut in (False, True):
        model.zero_grad()
        if is_cut:
            with logits.only(model, wanted):
                own = model(input_ids=tokens).logits[0]
        else:
            own = model(input_ids=tokens).logits[wanted]
        own.log_softmax(-1)[:, 5].sum().backward()
        found.append([own, *(value.grad for value in model.parameters() if value.grad is not None)])
    assert len(found[0]) == len(found[1])
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, atol=1e-4, rtol=1e-4)


def test_an_adapter_on_the_head_and_below_it_is_cut_too(words):
    model, (tokens, wanted) = made("llama"), some()
    tuned = finetune.with_adapter(Lora(rank=2, modules=("q_proj", "lm_head")), model, "small")
    tuned.eval()
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value += 0.3
        with logits.only(tuned, wanted):
            own = tuned(input_ids=tokens).logits[0]
        torch.testing.assert_close(own, tuned(input_ids=tokens).logits[wanted], atol=1e-5, rtol=1e-5)


def test_nothing_wanted_is_nothing_and_afterwards_all_is_there_again():
    model, (tokens, wanted) = made("llama"), some()
    with logits.only(model, torch.zeros_like(wanted)):
        assert model(input_ids=tokens).logits.shape == (1, 0, 61)
    with pytest.raises(RuntimeError, match="stop"), logits.only(model, wanted):
        raise RuntimeError("stop")
    assert model(input_ids=tokens).logits.shape == (4, 9, 61)
