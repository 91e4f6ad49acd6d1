from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.errors import InputError
from empirical.lm import capture
from theory import attention as toy_attention
from theory.model.config import Weights

N_TOKENS = 12
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PADDING = {
    "none": [[1] * N_TOKENS] * 3,
    "right": [[1] * N_TOKENS, [1] * 9 + [0] * 3, [1] * 4 + [0] * 8],
    "left": [[1] * N_TOKENS, [0] * 3 + [1] * 9, [0] * 8 + [1] * 4],
}


def build(kind, dtype=torch.float32):
    torch.manual_seed(0)
    made = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
        "mistral, wide window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=64)),
        "mistral, window of the row": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=N_TOKENS)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    }
    return made[kind]().to(dtype).eval()


def batch(padding="none"):
    """Return tokens, mask, two queries a row (the last token and the one two before it), and random spans."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor(PADDING[padding])
    tokens = torch.randint(3, 50, mask.shape, generator=generator) * mask
    last = N_TOKENS - 1 - mask.flip(1).argmax(1)
    spans = torch.rand((3, 4, N_TOKENS), generator=generator) < 0.4
    return tokens, mask, torch.stack([last, last - 2], dim=1), spans


def eager_mass(model, tokens, mask, queries, spans):
    """Return the same from eager attention, which keeps all its weights."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        kept = model(tokens, attention_mask=mask, position_ids=positions, output_attentions=True).attentions
    model.set_attn_implementation(before)
    weights = torch.stack(kept, dim=1).float()  # question layer head query token
    rows = weights.take_along_dim(queries[:, None, None, :, None], dim=3)
    return torch.einsum("nlhqt,nst->nqlhs", rows, spans.float())


def hidden_states(model, call):
    """Return what the last layer gives to the output layer while `call` runs."""
    seen = []
    handle = model.get_decoder().register_forward_hook(lambda module, given, output: seen.append(output[0]))
    call()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", ["llama", "mistral", "mistral, wide window", "mistral, window of the row", "qwen3"])
def test_it_equals_the_weights_of_eager_attention(kind, padding):
    model, inputs = build(kind), batch(padding)
    mass = capture.measure(model, *inputs)
    assert mass.shape == (3, 2, 3, 4, 4) and mass.dtype == torch.float32
    assert mass.std() > 0.1  # the heads do not attend alike everywhere, so a mix-up would show
    torch.testing.assert_close(mass, eager_mass(model, *inputs), atol=1e-6, rtol=0)


def eager_norms(model, tokens, mask, queries, spans):
    """Return each span's share of ‖α v W_O‖, every head's output projected token by token."""
    values, hooks = [], []
    for layer in model.get_decoder().layers:
        keep = layer.self_attn.v_proj.register_forward_hook(lambda module, given, output: values.append(output))
        hooks.append(keep)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        kept = model(tokens, attention_mask=mask, position_ids=positions, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()
    found = torch.empty(3, 2, 3, 4, 4)
    for number, layer in enumerate(model.get_decoder().layers):
        width = values[number].shape[-1] // 2
        for head in range(4):
            own = values[number][..., (head // 2) * width : (head // 2 + 1) * width]
            weight = layer.self_attn.o_proj.weight.detach()[:, head * width : (head + 1) * width]
            norm = (own @ weight.T).norm(dim=-1)
            for row in range(3):
                for place, query in enumerate(queries[row]):
                    added = kept[number][row, head, query] * norm[row]
                    found[row, place, number, head] = (spans[row] * added).sum(-1) / added.sum()
    return found


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_weighted_by_values_a_token_counts_by_the_length_of_what_it_adds_to_the_residual_stream(kind, padding):
    model, inputs = build(kind), batch(padding)
    mass, weighted = capture.both(model, *inputs, grams=capture.weighing(model))
    assert torch.equal(mass, capture.measure(model, *inputs)) and (mass - weighted).abs().max() > 0.05
    torch.testing.assert_close(weighted, eager_norms(model, *inputs), atol=1e-5, rtol=0)


def test_a_layer_whose_projection_does_not_take_what_the_heads_give_is_not_weighted():
    model, inputs = build("llama"), batch()
    layers: Any = model.model.layers
    layers[0].self_attn.o_proj.register_forward_pre_hook(lambda module, given: (2 * given[0],), prepend=True)
    grams = capture.weighing(model)
    assert set(grams) == {1, 2}
    mass, weighted = capture.both(model, *inputs, grams=grams)
    assert weighted[:, :, 0].isnan().all() and weighted[:, :, 1:].isfinite().all() and mass.isfinite().all()
    assert model.config._attn_implementation == "sdpa"
    assert all(len(layer.self_attn.o_proj._forward_pre_hooks) == (layer is layers[0]) for layer in layers)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_in_half_precision_it_equals_eager_attention_as_far_as_that_rounds(kind, padding):
    # Eager attention rounds scores and weights to 8 bits: small scores, and a weight may be off by 2⁻⁸ of itself.
    model, inputs = build(kind), batch(padding)
    for weight in model.parameters():
        weight.data *= 0.3 if weight.ndim > 1 else 1
    model = model.to(torch.bfloat16)
    mass = capture.measure(model, *inputs)
    torch.testing.assert_close(mass, eager_mass(model, *inputs), atol=2e-3, rtol=2**-8)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_model_computes_exactly_what_it_does_with_sdpa(kind, padding):
    model, (tokens, mask, queries, spans) = build(kind), batch(padding)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = hidden_states(model, lambda: model(tokens, attention_mask=mask, position_ids=positions))
    watched = hidden_states(model, lambda: capture.measure(model, tokens, mask, queries, spans))
    assert torch.equal(plain, watched)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_s_model_is_measured_with_its_adapter():
    model, inputs = build("mistral"), batch("left")
    base = capture.measure(model, *inputs)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    mass = capture.measure(tuned, *inputs)
    assert (mass - base).abs().max() > 0.01
    torch.testing.assert_close(mass, eager_mass(tuned, *inputs), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapters_output_projection_weighs_with_its_adapter():
    model, inputs = build("llama"), batch("left")
    config = LoraConfig(r=4, target_modules=["v_proj", "o_proj"], init_lora_weights=False, lora_dropout=0.5)
    tuned: Any = get_peft_model(model, config).eval()
    _, weighted = capture.both(tuned, *inputs, grams=capture.weighing(tuned))
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(weighted, eager_norms(merged, *inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", PADDING)
def test_spans_that_cover_the_row_hold_all_mass_and_padding_holds_none(padding):
    tokens, mask, queries, _ = batch(padding)
    spans = torch.stack([torch.ones_like(mask), 1 - mask, mask], dim=1).bool()
    mass = capture.measure(build("llama"), tokens, mask, queries, spans)
    torch.testing.assert_close(mass[..., 0], torch.ones_like(mass[..., 0]), atol=1e-6, rtol=0)
    assert (mass[..., 1] == 0).all() and torch.equal(mass[..., 0], mass[..., 2])


@pytest.mark.parametrize("kind", ["llama", "mistral, wide window"])
def test_under_autocast_what_is_measured_is_as_exact_as_without(kind):
    """The model computes in half precision, but the softmax and its sums do not."""
    tokens, mask, queries, _ = batch("left")
    parts = torch.arange(N_TOKENS)[None] % 3 == torch.arange(3)[:, None]
    spans = torch.cat([torch.ones(1, N_TOKENS).bool(), parts])[None].expand(3, -1, -1)
    model = build(kind)
    exact = capture.measure(model, tokens, mask, queries, spans)
    with torch.autocast("cpu", torch.bfloat16):
        mass = capture.measure(model, tokens, mask, queries, spans)
        assert model(tokens).logits.dtype == torch.bfloat16
    assert mass.dtype == torch.float32
    torch.testing.assert_close(mass[..., 0], torch.ones_like(mass[..., 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(mass[..., 1:].sum(-1), mass[..., 0], atol=1e-5, rtol=0)
    assert 1e-5 < (mass - exact).abs().max() < 0.1  # what it attends with was rounded


def test_later_tokens_and_those_before_the_window_hold_nothing():
    tokens, mask, _, _ = batch()
    queries = torch.tensor([[6], [8], [11]])
    place = torch.arange(N_TOKENS)
    spans = torch.stack([place > queries, place <= queries - 4, (place <= queries) & (place > queries - 4)], dim=1)
    mass = capture.measure(build("mistral"), tokens, mask, queries, spans)
    assert (mass[..., :2] == 0).all() and (mass[..., 2] > 0.999).all()


def test_the_side_of_the_padding_changes_nothing():
    (tokens, mask, queries, spans), model = batch("right"), build("mistral")
    shifts = (N_TOKENS - mask.sum(1)).tolist()
    rolled = [torch.stack([row.roll(n, -1) for row, n in zip(of, shifts, strict=True)]) for of in (tokens, mask, spans)]
    left = capture.measure(model, rolled[0], rolled[1], queries + torch.tensor(shifts)[:, None], rolled[2])
    spans = spans & mask[:, None].bool()
    torch.testing.assert_close(capture.measure(model, tokens, mask, queries, spans), left, atol=1e-6, rtol=0)


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_afterwards_the_model_attends_as_before(before):
    model, inputs = build("llama"), batch()
    model.set_attn_implementation(before)
    capture.measure(model, *inputs)
    assert model.config._attn_implementation == before


def test_it_attends_as_before_after_an_error_too():
    model, (tokens, mask, queries, spans) = build("llama"), batch()
    with pytest.raises(IndexError):
        capture.measure(model, tokens + 1000, mask, queries, spans)
    assert model.config._attn_implementation == "sdpa"


def test_no_gradient_is_kept():
    assert not capture.measure(build("llama"), *batch()).requires_grad


def test_a_model_that_caps_its_scores_is_refused_by_name():
    torch.manual_seed(0)
    sizes: dict[str, Any] = SIZES | {"head_dim": 8, "name_or_path": "a/capped"}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes)).eval()
    before = model.config._attn_implementation
    with pytest.raises(InputError, match="(?s)a/capped.*(fused attention|cap on its scores).*\n.*Name a model"):
        capture.measure(model, *batch())
    assert model.config._attn_implementation == before


def test_a_model_with_positions_of_its_own_is_measured_on_either_side_of_the_padding():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)
    model, inputs = GPT2LMHeadModel(config).eval(), batch("left")
    torch.testing.assert_close(capture.measure(model, *inputs), eager_mass(model, *inputs), atol=1e-6, rtol=0)


def test_what_is_not_the_plain_causal_softmax_is_refused():
    module: Any = build("llama").model.layers[0].self_attn
    capture.refuse_unsupported(module, None, {"is_causal": None, "softcap": None})
    for mask, options in (
        (None, {"softcap": 50.0}),
        (None, {"s_aux": torch.zeros(4)}),
        (None, {"position_bias": torch.zeros(1)}),
        (None, {"is_causal": False}),
        (torch.zeros(1, 1, 2, 2), {}),
    ):
        with pytest.raises(InputError, match="cannot be captured"):
            capture.refuse_unsupported(module, mask, options)


def test_a_query_on_padding_and_a_model_in_training_are_refused():
    model, (tokens, mask, queries, spans) = build("llama"), batch("right")
    with pytest.raises(ValueError, match="padding"):
        capture.measure(model, tokens, mask, queries * 0 + N_TOKENS - 1, spans)
    with pytest.raises(ValueError, match="training"):
        capture.measure(model.train(), tokens, mask, queries, spans)


def test_shares_of_the_non_sink_mass_leave_the_sink_out_and_are_unknown_where_it_has_all():
    mass = torch.tensor([[0.1, 0.2, 0.2, 0.5], [0.0, 0.0, 0.0, 1.0]])
    shares = capture.nonsink(mass)
    torch.testing.assert_close(shares[0], torch.tensor([0.2, 0.4, 0.4]))
    assert shares[1].isnan().all()


def test_a_language_model_with_the_toy_s_logits_has_the_toy_s_attention():
    """One layer and head, no positions to speak of: the query is 1, each token's key is its logit in the toy."""
    logits = {"subject": 1.3, "relation": -0.4, "template": 0.7}
    sizes: dict[str, Any] = SIZES | {"num_hidden_layers": 1, "hidden_size": 4, "head_dim": 4}
    sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    rope = {"rope_theta": 1e30, "rope_type": "default"}
    model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope)).eval()
    # Features 1 and 3 turn by 1e-15 a position; the norm before attention keeps (±1, ±1, ±1, ±1) as it is.
    embedding = torch.ones(50, 4)
    embedding[[3, 4, 5], :3] = torch.tensor([[-1.0, 1, 1], [1, -1, 1], [1, 1, -1]])
    model.model.embed_tokens.weight.data = embedding
    layer: Any = model.model.layers[0].self_attn
    wanted = torch.tensor(list(logits.values())) * 4**0.5
    # In each token's key the last feature is its logit: solve for the weights that read it from the embedding.
    key = torch.linalg.lstsq(embedding[3:6], wanted[:, None]).solution[:, 0]
    layer.k_proj.weight.data.zero_()[3] = key
    layer.q_proj.weight.data.zero_()[3, 3] = 1.0
    tokens, spans = torch.tensor([[3, 4, 5]]), torch.eye(3).bool()[None]
    mass = capture.measure(model, tokens, torch.ones_like(tokens), torch.tensor([[2]]), spans)[0, 0, 0, 0]
    one = {name: np.array([value]) for name, value in logits.items()}
    weights = Weights(
        np.empty((1, 1)), np.empty((1, 1)), np.empty(1), one["subject"], one["relation"], one["template"][0]
    )
    row = np.zeros(1, int)
    np.testing.assert_allclose(mass, toy_attention.measure(weights, row, row)[0], atol=1e-5)
