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


def ties(values):
    """Return the share of rows whose two highest logits are equal."""
    first, second = values.float().topk(2).values.T
    return (first == second).float().mean().item()


def test_logits_of_a_model_in_half_precision_are_computed_in_single_and_no_longer_tie():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES | {"vocab_size": 4000}))
    model = model.eval().to(torch.bfloat16)
    tokens = torch.randint(3, 4000, (40, 9), generator=torch.Generator().manual_seed(0))
    hidden = []
    model.lm_head.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.no_grad():
        whole = model(input_ids=tokens).logits[:, -1]
        wanted = torch.zeros_like(tokens, dtype=torch.bool)
        wanted[:, -1] = True
        with logits.only(model, wanted):
            own = model(input_ids=tokens).logits[0]
    assert whole.dtype == torch.bfloat16 and own.dtype == torch.float32
    assert ties(whole) > 0.05 and ties(own) == 0
    assert torch.equal(own, hidden[0][:, -1].float() @ model.lm_head.weight.float().T)
    assert model(input_ids=tokens).logits.dtype == torch.bfloat16  # as it was


def test_under_autocast_too_and_not_of_a_model_in_single_precision():
    model, (tokens, wanted) = made("llama"), some()
    with torch.no_grad():
        with logits.only(model, wanted):
            assert "forward" not in vars(model.lm_head)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(input_ids=tokens).logits.dtype == torch.bfloat16
            with logits.only(model, wanted), logits.precise(model):
                assert model(input_ids=tokens).logits.dtype == torch.float32


def test_gradients_pass_through_a_head_in_half_precision():
    model = made("llama").to(torch.bfloat16)
    tokens, wanted = some()
    with logits.only(model, wanted):
        model(input_ids=tokens).logits[0].log_softmax(-1)[:, 5].sum().backward()
    assert all(value.grad.dtype == torch.bfloat16 and value.grad.abs().sum() > 0 for value in model.parameters())
