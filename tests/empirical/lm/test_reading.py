from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from core.facts.record import Fact
from empirical.lm import capture, generate, knockout, prompts, reading
from empirical.pieces import Pieces

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral, wide window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=200)),
    "mistral, narrow window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=20)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    "gemma3, wide window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=200)),
    "gemma3, narrow window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=20)),
}
PAD = 2


@pytest.fixture(params=list(MODELS))
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture(autouse=True)
def _some_at_once(monkeypatch):
    monkeypatch.setattr(reading, "AT_ONCE", 2)


@pytest.fixture
def encoded(words):
    """Return questions of several lengths, in no order, with answers of several lengths."""
    facts = [
        Fact(str(i), "Ann" * (1 + i), "city", f"Where is {'Ann' * (1 + i)}?", ("Rome" * (1 + i % 3),))
        for i in (3, 0, 4, 1, 2)
    ]
    return prompts.encode(words, [prompts.build(fact) for fact in facts])


def test_an_answer_is_as_probable_after_a_reading_as_in_one_pass(model, encoded):
    given = reading.read(model, encoded, PAD)
    assert (given.cache is None) == ((getattr(model.config, "sliding_window", None) or 99) < 30)
    asked = [question.prompt for question in encoded], [question.completion for question in encoded]
    expected = generate.answer_logprob(model, *asked, pad=PAD)
    for _ in range(2):  # the first leaves the reading as it was
        found = reading.logprob(model, given.questions, cache=given.cache)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_prompts_of_one_token_are_read_with_others(model, encoded):
    short = [prompts.Encoded((5, 9, 8), 1, encoded[0].spans[:, :1], has_subject=False)] * 3
    given = reading.read(model, [*short, *encoded], PAD)
    found = reading.logprob(model, given.questions, cache=given.cache)
    expected = [
        generate.answer_logprob(model, [one.prompt], [one.completion], pad=PAD)[0] for one in (*short, *encoded)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_attention_and_knockout_after_a_reading_are_those_of_one_pass(model, encoded):
    given = reading.read(model, encoded, PAD)
    questions = given.questions
    queries = torch.stack([questions.prompt_end, questions.prompt_end + 1], dim=1)
    inputs = (model, questions.tokens, questions.mask, queries, questions.spans)
    torch.testing.assert_close(capture.measure(*inputs, cache=given.cache), capture.measure(*inputs), atol=1e-5, rtol=0)
    for cut in (None, questions.spans[:, 0]):
        found = knockout.logprob(model, questions, cut=cut, cache=given.cache)
        torch.testing.assert_close(found, knockout.logprob(model, questions, cut=cut), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stop", [(), tuple(range(100))])
def test_what_is_said_after_a_reading_is_what_is_said_to_each_prompt_alone(model, encoded, stop):
    given = reading.read(model, encoded, PAD)
    settings = {"stop": stop, "pad": PAD, "max_new_tokens": 10}
    alone = [generate.greedy(model, [question.prompt], **settings)[0] for question in encoded]
    for _ in range(2):
        assert generate.greedy_after(model, given.prompts, given.cache, **settings).tokens == alone
    lengths = {len(tokens) for tokens in alone}
    assert lengths == {10} if not stop else len(lengths) > 1


@pytest.mark.parametrize("stop", [(), tuple(range(0, 400, 3)), tuple(range(399))])
def test_what_is_said_is_as_probable_as_its_tokens_and_whatever_stop_token_ends_it(model, encoded, stop):
    given = reading.read(model, encoded, PAD)
    said = generate.greedy_after(model, given.prompts, given.cache, stop=stop, pad=PAD, max_new_tokens=6)
    for question, tokens, logprob in zip(encoded, said.tokens, said.logprob, strict=True):
        with torch.no_grad():
            after = model(torch.tensor([[*question.prompt, *tokens]])).logits[0, question.n_prompt - 1 :].double()
        following = after.log_softmax(-1)
        expected = sum(float(following[place, token]) for place, token in enumerate(tokens))
        if len(tokens) < 6:
            expected += float(following[-1, list(stop)].logsumexp(0))
        assert logprob == pytest.approx(expected, abs=1e-4)
    lengths = {len(tokens) for tokens in said.tokens}
    assert lengths == {6} if not stop else min(lengths) < 6


def test_what_a_cache_has_read_cannot_be_asked_again(encoded):
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    given = reading.read(model, encoded, PAD)
    questions = given.questions
    early = questions.prompt_end[:, None] - 1
    with pytest.raises(ValueError, match="has read"):
        capture.measure(model, questions.tokens, questions.mask, early, questions.spans, cache=given.cache)
    moved = replace(questions, prompt_end=questions.prompt_end - 1)
    with pytest.raises(ValueError, match="has read"):
        knockout.logprob(model, moved, cache=given.cache)
    with pytest.raises(ValueError, match="training mode"):
        reading.read(model.train(), encoded, PAD)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 999), (2, 999), (9, 60), (9, 999)])
def test_each_question_has_its_own_in_the_order_of_the_questions(encoded, rows, tokens, tmp_path):
    torch.manual_seed(0)
    model, counts, made = MODELS["llama"]().eval(), [], []

    def measure(given):
        made.append(len(given.encoded))
        return {"length": np.array([len(one.tokens) for one in given.encoded])}

    for _ in range(2):  # the second finds all that the first kept
        found = reading.each(
            model, encoded, PAD, measure, rows=rows, tokens=tokens, pieces=Pieces(tmp_path), done=counts.append
        )
        assert found["length"].tolist() == [len(one.tokens) for one in encoded]
    assert sum(made) == len(encoded) and sum(counts) == 2 * len(encoded)
    assert reading.each(model, [], PAD, measure, rows=rows, tokens=tokens) == {}
