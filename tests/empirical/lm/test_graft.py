import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from core.errors import InputError
from empirical.lm import graft
from empirical.lm.graft import PARTS


@pytest.fixture
def pair(llama):
    """Return two models of one shape whose weights all differ."""
    other = type(llama)(llama.config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in (*llama.parameters(), *other.parameters()):
            weight.copy_(torch.randn_like(weight))
    return llama, other


def same(one, other):
    return [
        name for name, weight in one.named_parameters() if torch.equal(weight, dict(other.named_parameters())[name])
    ]


def test_each_weight_is_in_one_part_and_grafting_it_moves_no_other(pair):
    receiver, donor = pair
    names = [name for name, _ in receiver.named_parameters()]
    moved = []
    for part in PARTS:
        with graft.grafted(receiver, donor, (part,)):
            own = same(receiver, donor)
        assert own and {graft.part_of(name) for name in own} == {part}
        moved += own
    assert sorted(moved) == sorted(names)


def test_all_parts_make_the_donor_and_afterwards_all_is_as_it_was(pair):
    receiver, donor = pair
    before = {name: weight.clone() for name, weight in receiver.named_parameters()}
    with graft.grafted(receiver, donor):
        assert same(receiver, donor) == list(before)
    assert all(torch.equal(weight, before[name]) for name, weight in receiver.named_parameters())


def test_weights_come_back_after_an_error_within(pair):
    receiver, donor = pair
    before = {name: weight.clone() for name, weight in receiver.named_parameters()}
    with pytest.raises(RuntimeError), graft.grafted(receiver, donor):
        raise RuntimeError
    assert all(torch.equal(weight, before[name]) for name, weight in receiver.named_parameters())


def test_a_layer_is_grafted_alone_and_what_is_in_no_layer_stays(pair):
    receiver, donor = pair
    with graft.grafted(receiver, donor, layers=(1,)):
        assert all(".layers.1." in name for name in same(receiver, donor))
        assert len(same(receiver, donor)) == 9  # 7 projections, 2 norms


def test_a_share_stands_between_the_two(pair):
    receiver, donor = pair
    own, other = receiver.lm_head.weight.clone(), donor.lm_head.weight
    with graft.grafted(receiver, donor, ("embeddings",), share=0.25):
        torch.testing.assert_close(receiver.lm_head.weight, 0.75 * own + 0.25 * other)
    with graft.grafted(receiver, donor, share=0.0):
        assert torch.equal(receiver.lm_head.weight, own)


def test_models_of_other_shapes_are_refused(llama, mistral):
    wide = type(llama)(type(llama.config)(**(llama.config.to_dict() | {"intermediate_size": 64})))
    with pytest.raises(InputError, match=r"not of one shape: model.layers.0.mlp.down_proj.weight is \(32, 48\) and"):
        with graft.grafted(llama, wide):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [({"parts": ("mlps",)}, "there is no part 'mlps'"), ({"layers": (0, 2)}, "no layer 2: it has 2, counted from 0")],
)
def test_a_part_or_layer_that_there_is_not_is_refused(pair, options, message):
    with pytest.raises(InputError, match=message), graft.grafted(*pair, **options):
        pass


def test_a_model_that_is_built_otherwise_is_refused():
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="cannot be taken apart"), graft.grafted(gpt, gpt):
        pass
