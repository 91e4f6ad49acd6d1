import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from core.errors import InputError
from empirical.lm import batch, graft, patch, reading
from empirical.lm.formats import of
from empirical.lm.patch import Patch

ALL = [
    f"{what}@{where}"
    for what in ("attention", "value", "mlp", "layer")
    for where in ("subject", "subject_last", "end", "all")
]
KINDS = ("llama", "mistral", "qwen3", "gemma3")


def build(kind, llama, mistral):
    """Return a model of this kind of random weights, large enough that attention is not even."""
    sizes = {name: value for name, value in llama.config.to_dict().items() if name in SHARED}
    if kind == "gemma3":
        layers = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8, sliding_window=8, layer_types=layers))
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8))
    else:
        model = {"llama": llama, "mistral": mistral}[kind]
    return model.eval()


SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def randomised(model, seed, scale=0.2):
    """Return a model of its shape whose weights are drawn anew."""
    other, draw = type(model)(model.config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=draw))
    return other


@pytest.fixture
def questions(tiny_world, words):
    facts = tiny_world.fact_set().facts[:9]
    encoded = of(words, is_chat=False).ask(facts)
    return batch.of_questions(encoded, words.pad_token_id)


@pytest.fixture(params=KINDS)
def pair(request, llama, mistral):
    model = build(request.param, llama, mistral)
    return randomised(model, 1), randomised(model, 2)


def test_unpatched_scores_are_those_of_a_plain_pass(pair, questions):
    own = patch.scores(pair[0], questions)
    torch.testing.assert_close(own.logprob, reading.logprob(pair[0], questions), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("text", ALL)
def test_a_model_patched_into_itself_is_itself_bit_for_bit(pair, questions, text):
    receiver, _ = pair
    own, patched = (
        patch.scores(receiver, questions),
        patch.scores(receiver, questions, [Patch.parse(text)], donor=receiver),
    )
    assert torch.equal(own.logprob, patched.logprob) and torch.equal(own.is_right, patched.is_right)


def test_all_that_leaves_the_layers_with_norm_and_head_is_the_other_model(pair, questions):
    receiver, donor = pair
    with graft.grafted(receiver, donor, ("norms", "embeddings")):
        patched = patch.scores(receiver, questions, [Patch.parse("layer@all")], donor=donor)
    assert torch.equal(patched.logprob, patch.scores(donor, questions).logprob)


def test_grafting_all_parts_is_the_other_model(pair, questions):
    receiver, donor = pair
    with graft.grafted(receiver, donor):
        assert torch.equal(patch.scores(receiver, questions).logprob, patch.scores(donor, questions).logprob)


def test_where_only_queries_and_keys_differ_in_the_last_layer_all_is_in_the_attention_of_the_end(pair, questions):
    receiver, donor = pair
    with graft.grafted(donor, receiver, ("value_output", "mlp", "norms", "embeddings")):
        with graft.grafted(donor, receiver, layers=(0,)):
            theirs = patch.scores(donor, questions).logprob
            patched = patch.scores(receiver, questions, [Patch.parse("attention@all:1")], donor=donor).logprob
            partly = patch.scores(receiver, questions, [Patch.parse("attention@all:1:0")], donor=donor).logprob
    torch.testing.assert_close(patched, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(partly, theirs, atol=1e-3)


def test_tokens_on_which_the_other_has_no_weight_are_as_cut(questions):
    own = torch.randn(9, 4, 5, questions.tokens.shape[1]).softmax(-1)
    keys = questions.spans[:, 0][:, None, None]
    mixed = patch._mixed(own, own * ~keys, keys)
    torch.testing.assert_close(mixed, own * ~keys / (own * ~keys).sum(-1, keepdim=True))


def test_mixed_weights_sum_to_one_and_take_the_others_mass(questions):
    own, other = (torch.randn(9, 4, 5, questions.tokens.shape[1]).softmax(-1) for _ in range(2))
    keys = questions.spans[:, 0][:, None, None]
    mixed = patch._mixed(own, other, keys)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(9, 4, 5))
    assert torch.equal(mixed[keys.expand_as(mixed)], other[keys.expand_as(mixed)])


def test_places_are_those_of_their_names(questions):
    subject = patch._places(questions, "subject")
    last = patch._places(questions, "subject_last")
    assert (last.sum(1) == 1).all() and (last <= subject).all()
    assert torch.equal(last.long().argmax(1), subject.shape[1] - 1 - subject.long().flip(1).argmax(1))
    ends = patch._places(questions, "end")
    assert torch.equal(ends.long().argmax(1), questions.prompt_end)
    assert torch.equal(ends.sum(1), questions.completion.sum(1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attention@subject", Patch("attention", "subject")),
        ("mlp@subject_last:3", Patch("mlp", "subject_last", (3,))),
        ("attention@all:0-2,5:1,3", Patch("attention", "all", (0, 1, 2, 5), (1, 3))),
        ("attention@all::0", Patch("attention", "all", None, (0,))),
    ],
)
def test_a_text_names_a_patch(text, expected):
    assert Patch.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "attention", "attention@verb", "look@subject", "mlp@end:1:2", "mlp@end:a", "mlp@end:3-1", "mlp@end:1:2:3"],
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InputError):
        Patch.parse(text)


@pytest.mark.parametrize("text", ["mlp@end:2", "attention@subject:0:4"])
def test_a_layer_or_head_that_there_is_not_is_refused(llama, questions, text):
    with pytest.raises(InputError, match="no (layer 2|head 4)"):
        patch.scores(llama, questions, [Patch.parse(text)], donor=llama)


def test_a_donor_of_another_shape_is_refused(llama, questions):
    other = LlamaForCausalLM(type(llama.config)(**(llama.config.to_dict() | {"num_hidden_layers": 1})))
    with pytest.raises(InputError, match="not of one shape"):
        patch.scores(llama, questions, [Patch.parse("mlp@end")], donor=other.eval())


def test_padding_in_front_is_refused(llama, tiny_world, words):
    encoded = of(words, is_chat=False).ask(tiny_world.fact_set().facts[:9])
    aligned = batch.of_questions(encoded, words.pad_token_id, aligned=True)
    if aligned.mask[:, 0].all():
        pytest.skip("all prompts are of one length")
    with pytest.raises(ValueError, match="begin with padding"):
        patch.scores(llama, aligned)
