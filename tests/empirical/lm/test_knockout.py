from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from empirical.lm import knockout
from empirical.lm.batch import QuestionBatch

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
ONE_LAYER: dict[str, Any] = SIZES | {"num_hidden_layers": 1}
WINDOW = 5
PADDING = {"none": [0, 0, 0], "right": [0, 2, 5], "left": [0, 2, 5]}


def build(kind):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)).eval()


def batch(padding="none"):
    """Return questions without spans, whose answers are their last 1 to 3 tokens, and what is cut."""
    generator, place = torch.Generator().manual_seed(1), torch.arange(N_TOKENS)
    absent = torch.tensor(PADDING[padding])[:, None]
    mask = (place >= absent if padding == "left" else place < N_TOKENS - absent).long()
    tokens = torch.randint(3, 50, mask.shape, generator=generator) * mask
    stop = torch.full((3,), N_TOKENS) if padding == "left" else mask.sum(1)
    queries = stop - torch.tensor([1, 2, 3]) - 1
    completion = (place > queries[:, None]) & (place < stop[:, None])
    cut = (place < queries[:, None]) & (place >= queries[:, None] - 2)
    spans = torch.zeros((3, 4, N_TOKENS), dtype=torch.bool)
    return QuestionBatch(tokens, mask, spans, completion, queries), cut


def eager_logprob(model, questions, *, cut, window):
    """Return the same from eager attention under a mask made by hand."""
    tokens, mask = questions.tokens, questions.mask
    place = torch.arange(N_TOKENS)
    allowed = (place[None] <= place[:, None]) & (place[None] > place[:, None] - (window or N_TOKENS))
    allowed = allowed & mask[:, None].bool()
    for row, query in enumerate(questions.prompt_end.tolist()):
        allowed[row, query, cut[row]] = False
    bias = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(tokens, attention_mask=bias, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    model.set_attn_implementation("sdpa")
    found = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    return (found * questions.completion[:, 1:]).sum(1)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize(("kind", "window"), [("llama", None), ("mistral", WINDOW)])
def test_it_equals_eager_attention_under_a_mask_made_by_hand(kind, window, padding):
    model, (questions, cut) = build(kind), batch(padding)
    found = knockout.logprob(model, questions, cut=cut)
    torch.testing.assert_close(found, eager_logprob(model, questions, cut=cut, window=window), atol=2e-5, rtol=0)
    whole = knockout.logprob(model, questions)
    torch.testing.assert_close(
        whole, eager_logprob(model, questions, cut=cut & False, window=window), atol=2e-5, rtol=0
    )
    assert ((found - whole).abs() > 0.001).all()  # the cut is felt in every row


@pytest.mark.parametrize("padding", PADDING)
def test_cutting_nothing_changes_nothing(padding):
    model, (questions, cut) = build("llama"), batch(padding)
    assert torch.equal(knockout.logprob(model, questions), knockout.logprob(model, questions, cut=cut & False))
    cut[0] = False
    found, whole = knockout.logprob(model, questions, cut=cut), knockout.logprob(model, questions)
    assert found[0] == whole[0] and (found[1:] != whole[1:]).all()


def test_cutting_in_no_layer_changes_nothing_and_in_all_layers_is_the_default():
    model, (questions, cut) = build("llama"), batch()
    none, some, every = (knockout.logprob(model, questions, cut=cut, layers=layers) for layers in ([], [1], [0, 1, 2]))
    assert torch.equal(none, knockout.logprob(model, questions))
    assert torch.equal(every, knockout.logprob(model, questions, cut=cut))
    assert not torch.isclose(some, none).any() and not torch.isclose(some, every).any()
    assert not torch.isclose(some, knockout.logprob(model, questions, cut=cut, layers=[1, 2])).any()


def test_a_cut_edge_passes_nothing_on():
    """In one layer the last prompt token's output depends on the other tokens through its own edges alone."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**ONE_LAYER)).eval()
    questions, cut = batch()
    # The one token that this output predicts.
    predicted = torch.arange(N_TOKENS) == questions.prompt_end[:, None] + 1
    questions = replace(questions, completion=predicted)
    other = torch.where(cut, 3 + (questions.tokens - 2) % 47, questions.tokens)
    assert (other[cut] != questions.tokens[cut]).all()
    both = questions, replace(questions, tokens=other)
    for rows in (cut, None):
        before, after = (knockout.logprob(model, one, cut=rows) for one in both)
        assert torch.equal(before, after) == (rows is not None)


def test_only_the_query_s_edges_are_cut():
    """The token that predicts the second one of the answer still sees what the prompt's last token does not."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**ONE_LAYER)).eval()
    questions, cut = batch()
    place, queries = torch.arange(N_TOKENS), questions.prompt_end
    later = place == queries[:, None] + 2
    later[0, -1], queries[0] = True, N_TOKENS - 3
    questions = replace(questions, completion=later)
    found = knockout.logprob(model, questions, cut=cut & (place < queries[:, None]))
    assert torch.equal(found, knockout.logprob(model, questions))


def test_tokens_other_than_the_completion_s_are_not_counted():
    model, (questions, _) = build("llama"), batch("right")
    completion = questions.completion
    parts = [completion & (torch.arange(N_TOKENS) % 2 == n) for n in (0, 1)]
    both = completion.clone()
    both[:, 1:3] = parts[0][:, 1:3] = True  # each part needs a token in every row
    parts[1][:, 3] = both[:, 3] = True
    found = [knockout.logprob(model, replace(questions, completion=part)) for part in (*parts, both)]
    torch.testing.assert_close(found[0] + found[1], found[2])


def test_afterwards_the_model_attends_as_before():
    model, (questions, cut) = build("llama"), batch()
    knockout.logprob(model, questions, cut=cut)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda questions, cut: cut.scatter_(1, questions.prompt_end[:, None], True), "cut from itself"),
        (lambda questions, cut: questions.prompt_end.fill_(N_TOKENS - 1), "stands on padding"),
        (lambda questions, cut: questions.completion[1].fill_(False), "no completion"),
        (lambda questions, cut: questions.completion[1, 0].fill_(True), "begins with its row"),
    ],
)
def test_what_would_give_no_number_or_a_wrong_one_is_refused(change, problem):
    questions, cut = batch("right")
    change(questions, cut)
    with pytest.raises(ValueError, match=problem):
        knockout.logprob(build("llama"), questions, cut=cut)


def test_a_layer_that_is_not_there_is_refused():
    questions, cut = batch()
    with pytest.raises(ValueError, match=r"no such layer of 3: \[-1, 3\]"):
        knockout.logprob(build("llama"), questions, cut=cut, layers=[2, 3, -1])
