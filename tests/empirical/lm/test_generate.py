from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from empirical.lm import generate, tokenizer

PAD, STOP = 0, (1, 2)
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # so that continuations differ from prompt to prompt
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@pytest.fixture(params=["llama", "mistral"])
def model(request):
    torch.manual_seed(3)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24)).eval()


@pytest.fixture(params=["nothing shared", "a prefix of 20", "longer than the window"])
def texts(request):
    return begin_alike({"nothing shared": 0, "a prefix of 20": 20, "longer than the window": 30}[request.param])


@pytest.fixture
def few_shot():
    return begin_alike(20)


def begin_alike(n_shared):
    rng = np.random.default_rng(5)
    shared = rng.integers(3, 64, n_shared).tolist()
    return [shared + rng.integers(3, 64, n).tolist() for n in (3, 9, 1, 5, 12, 4, 3)]


def stepwise(model, prompt, n):
    """Return the greedy continuation, one full pass per token, without cache, padding or mask."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + n:
        following = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if following in STOP:
            break
        tokens.append(following)
    return tokens[len(prompt) :]


def full_logprob(model, prompt, completion):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0].double()
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return sum(float(logits[i].log_softmax(-1)[token]) for i, token in zip(places, completion, strict=True))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_continuations_are_those_of_one_prompt_at_a_time_whatever_the_batch(model, texts, batch_size):
    expected = [stepwise(model, text, 8) for text in texts]
    found = generate.greedy(model, texts, stop=STOP, pad=PAD, max_new_tokens=8, batch_size=batch_size)
    assert found == expected
    assert len({tuple(tokens) for tokens in expected}) > 4  # a model that says the same to all would prove nothing


def test_a_continuation_ends_before_its_stop_token_or_at_the_limit(model):
    prompts = np.random.default_rng(0).integers(3, 64, (20, 4)).tolist()
    free = generate.greedy(model, prompts, stop=(), pad=PAD, max_new_tokens=6)
    assert {len(tokens) for tokens in free} == {6}
    stop = free[0][2]
    stopped = generate.greedy(model, prompts, stop=(stop,), pad=PAD, max_new_tokens=6)
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert stopped == expected
    assert len({len(tokens) for tokens in stopped}) > 1


def test_the_model_s_own_generation_settings_are_neither_used_nor_lost(model, few_shot):
    expected = generate.greedy(model, few_shot, stop=STOP, pad=PAD)
    own = model.generation_config
    own.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, min_length=60, top_k=1)
    assert generate.greedy(model, few_shot, stop=STOP, pad=PAD) == expected
    draws = generate.sample(model, few_shot, temperature=5.0, stop=STOP, pad=PAD, seed=0)
    assert model.generation_config is own
    assert draws != expected


# peft reads a name that transformers has given up.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_an_adapter_answers_like_the_merged_model_and_keeps_its_base_s_settings(model, few_shot, task):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type=task)
    adapted: Any = get_peft_model(model, config).eval()
    own = adapted.get_base_model().generation_config
    own.update(repetition_penalty=5.0)
    found = generate.greedy(adapted, few_shot, stop=STOP, pad=PAD)
    logprob = generate.answer_logprob(adapted, few_shot, [[5, 6]] * len(few_shot), pad=PAD)
    assert adapted.get_base_model().generation_config is own
    merged = adapted.merge_and_unload()
    assert found == [stepwise(merged, text, 16) for text in few_shot]
    expected = [full_logprob(merged, text, [5, 6]) for text in few_shot]
    np.testing.assert_allclose(logprob, expected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_log_probabilities_are_those_of_a_full_pass_over_each_text(model, texts, batch_size):
    rng = np.random.default_rng(1)
    completions = [rng.integers(3, 64, n).tolist() for n in (1, 2, 5, 3, 1, 4, 2)]
    expected = [full_logprob(model, *pair) for pair in zip(texts, completions, strict=True)]
    found = generate.answer_logprob(model, texts, completions, pad=PAD, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_shared_beginning_passes_through_the_model_once(model, texts, monkeypatch):
    n_read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: n_read.append(given["input_ids"].numel()) or forward(**given))
    generate.answer_logprob(model, texts, [[5]] * len(texts), pad=PAD, batch_size=1)
    n_shared = min(map(len, texts)) - 1
    is_shared = n_shared >= 20
    assert sum(n_read) == sum(map(len, texts)) - is_shared * n_shared * (len(texts) - 1)


def test_batches_are_of_like_length(model, monkeypatch):
    n_read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: n_read.append(given["input_ids"].numel()) or forward(**given))
    texts = [[n] * (2 if n % 2 else 20) for n in range(3, 9)]
    generate.answer_logprob(model, texts, [[5]] * 6, pad=PAD, batch_size=3)
    assert sum(n_read) == 3 * 2 + 3 * 20


def test_completions_may_be_the_same_prompt_s(model):
    prompt = list(range(10, 40))
    found = generate.answer_logprob(model, [prompt] * 3, [[4], [5], [4, 5]], pad=PAD)
    np.testing.assert_allclose(found, [full_logprob(model, prompt, c) for c in ([4], [5], [4, 5])], atol=1e-5)


def test_wanted_tokens_may_be_several_of_one_position_also_after_the_end(model, texts):
    wanted = [[(len(text), 7), (len(text), 8), (1, text[1])] if len(text) > 1 else [(1, 9)] for text in texts]
    found = generate.token_logprobs(model, texts, wanted, pad=PAD, batch_size=3)
    for text, pairs, values in zip(texts, wanted, found, strict=True):
        expected = [full_logprob(model, text[:place], [token]) for place, token in pairs]
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_samples_follow_the_tempered_distribution_and_their_seed(model, temperature):
    prompt = list(range(10, 14))
    settings: dict[str, Any] = {
        "temperature": temperature,
        "stop": (),
        "pad": PAD,
        "max_new_tokens": 1,
        "batch_size": 2000,
    }
    draws = generate.sample(model, [prompt] * 2000, **settings, seed=1)
    logits = model(torch.tensor([prompt])).logits[0, -1].detach()
    expected = torch.softmax(logits / temperature, -1).numpy()
    share = np.bincount(np.ravel(draws), minlength=64) / 2000
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected / 2000) + 2 / 2000)
    assert temperature < 1 or share.min() > 0  # no token is left out
    assert draws == generate.sample(model, [prompt] * 2000, **settings, seed=1)
    assert draws != generate.sample(model, [prompt] * 2000, **settings, seed=2)


def test_sampling_leaves_the_global_random_state_alone(model, few_shot):
    state = torch.get_rng_state()
    generate.sample(model, few_shot, temperature=1.0, stop=STOP, pad=PAD, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_in_training_mode_an_empty_prompt_and_an_empty_completion_are_refused(model):
    with pytest.raises(ValueError, match="no tokens"):
        generate.greedy(model, [[3], []], stop=STOP, pad=PAD)
    with pytest.raises(ValueError, match="no tokens"):
        generate.answer_logprob(model, [[3], []], [[3], [3]], pad=PAD)
    with pytest.raises(ValueError, match="no completion"):
        generate.answer_logprob(model, [[3], [4]], [[3], []], pad=PAD)
    with pytest.raises(ValueError, match="training mode"):
        generate.greedy(model.train(), [[3]], stop=STOP, pad=PAD)


def test_no_prompts_have_no_continuations(model):
    assert generate.greedy(model, [], stop=STOP, pad=PAD) == []
    assert generate.answer_logprob(model, [], [], pad=PAD).shape == (0,)


@pytest.fixture(scope="module")
def words():
    lines = ["Question: Who?\n\nAnswer: one.\n\n"] * 20
    return tokenizer.train(lines, size=400)


def test_generation_stops_at_the_end_token_and_at_whatever_holds_a_line_break(words):
    texts = {token: words.decode([token]) for token in range(len(words))}
    broken = {token for token, text in texts.items() if "\n" in text}
    assert len(broken) > 1  # a break alone, and one merged with something
    assert generate.stop_ids(words) == broken | {words.eos_token_id}


def test_a_vocabulary_is_decoded_once(monkeypatch):
    fresh, calls = tokenizer.train(["one two"] * 20, size=300), []
    decode = fresh.batch_decode
    monkeypatch.setattr(fresh, "batch_decode", lambda *given, **more: calls.append(1) or decode(*given, **more))
    assert generate.stop_ids(fresh) == generate.stop_ids(fresh) and len(calls) == 1


def test_a_line_break_that_falls_apart_into_bytes_stops_too():
    """As in Llama-2's tokenizer, whose line break is the token <0x0A>."""
    pieces = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "Ċ"]
    plain = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    plain.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    words = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")
    assert generate.stop_ids(words) == {0, pieces.index("<0x0A>")}


def test_text_ends_at_the_first_line_break_and_has_no_blanks_around_it(words):
    ids = [
        words(text, add_special_tokens=False)["input_ids"] for text in (" one two \nthree", "\n\n one", "", " Ō . ,")
    ]
    ids[0].append(words.eos_token_id)
    assert generate.decode(words, ids) == ["one two", "", "", "Ō . ,"]
