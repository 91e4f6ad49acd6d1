import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AttentionInterface, AttentionMaskInterface

from empirical.lm import attribution, batch, capture, logits, patch
from empirical.lm.formats import of
from empirical.lm.patch import Patch


@pytest.fixture
def questions(tiny_world, words):
    encoded = of(words, is_chat=False).ask(tiny_world.fact_set().facts[:9])
    return batch.of_questions(encoded, words.pad_token_id)


@pytest.fixture(params=["llama", "mistral"])
def model(request):
    made = request.getfixturevalue(request.param)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
    return made


def eager_force(model, questions):
    """Return the answers' slopes by every attention logit, of eager attention."""
    shifts = {}

    def attend(module, query, key, value, attention_mask, *, scaling, **options):
        keys, values = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        scores = (query @ keys.mT * scaling).masked_fill(~attention_mask, -1e9)
        shifts[module.layer_idx] = torch.zeros_like(scores, requires_grad=True)
        return ((scores + shifts[module.layer_idx]).softmax(-1) @ values).transpose(1, 2), None

    AttentionInterface.register("of_this_test", attend)
    AttentionMaskInterface.register("of_this_test", capture.mask)
    with logits.only(model, questions.completion.roll(-1, dims=1)):
        after = capture.forward(model, "of_this_test", questions.tokens, questions.mask)[0].log_softmax(-1)
    total = after.gather(1, questions.tokens[questions.completion][:, None]).sum()
    return torch.stack(torch.autograd.grad(total, [shifts[layer] for layer in range(len(shifts))]))


def test_the_force_on_the_subject_is_the_slope_by_its_attention_logits_at_the_places_that_predict(model, questions):
    slopes = eager_force(model, questions)
    ends = questions.completion.roll(-1, dims=1)[:, None, :, None]
    expected = (slopes * ends * questions.spans[:, 0][:, None, None]).sum((-2, -1)).transpose(0, 1)
    found = attribution.looking(model, questions).force(questions.spans[:, 0])
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    everywhere = attribution.looking(model, questions).force(questions.mask.bool())
    torch.testing.assert_close(everywhere, torch.zeros_like(everywhere), atol=1e-4, rtol=0)


def test_what_a_head_gains_is_what_patching_it_alone_gains_where_the_models_are_near(model, questions):
    other, draw = type(model)(model.config).eval(), torch.Generator().manual_seed(2)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "q_proj" in name:
                weight += 0.1 * torch.randn(weight.shape, generator=draw)
    theirs = attribution.looking(other, questions).weights
    found = attribution.looking(model, questions).gain(theirs)
    own = patch.scores(model, questions).logprob
    exact = torch.empty_like(found)
    for layer in range(2):
        for head in range(4):
            given = Patch("attention", "all", (layer,), (head,))
            exact[:, layer, head] = patch.scores(model, questions, [given], donor=other).logprob - own
    found, exact = found.mean(0).flatten().numpy(), exact.mean(0).flatten().numpy()
    assert np.abs(exact).max() > 1e-3
    assert np.corrcoef(stats.rankdata(found), stats.rankdata(exact))[0, 1] > 0.9
    np.testing.assert_allclose(found, exact, atol=0.15 * np.abs(exact).max())


def test_a_model_looks_as_it_does_and_gains_nothing_by_itself(model, questions):
    own = attribution.looking(model, questions)
    assert (own.gain(own.weights) == 0).all() and not own.slope.requires_grad
    sums = own.weights.sum(-1)
    is_place = torch.arange(sums.shape[-1]) < questions.completion.sum(1)[:, None]
    torch.testing.assert_close(sums, is_place[None, :, None].float().expand_as(sums), atol=1e-5, rtol=0)
    assert model.config._attn_implementation == "sdpa" and all(one.grad is None for one in model.parameters())
