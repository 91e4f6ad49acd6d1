"""Compiled layers: a training as without them, a model that is plain whenever it is looked at, and what is refused.

Most of it is compiled by `aot_eager`, which records the same graphs as `inductor` and computes them as ever.
"""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch._inductor.config

from core.errors import InputError
from empirical import finetune
from empirical.finetune import DivergedError, FinetuneConfig, Lora
from empirical.lm import batch, compiled, prompts, sharded, train_config
from empirical.lm.model import LanguageModel
from empirical.lm.step import loss_sum
from empirical.lm.train_config import TrainConfig

# Recording a graph looks at the gradients of what passes between layers, of which PyTorch warns.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]
TRAIN = TrainConfig(epochs=2, batch_size=5, n_records=2, checkpoint_every=3, compile=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.fixture
def examples(words, tiny_world):
    return prompts.encode(words, [prompts.build(fact) for fact in tiny_world.fact_set().facts[:20]])


def plain(net):
    return all(layer._compiled_call_impl is None for layer in sharded.layers(net))


def run(net, words, examples, work, *, rate=1e-3, told=lambda doing, share: None, dropout=0.3, mixed=False, **changes):
    """Return a copy of the net as it is finetuned, the trace, and of each pass in training whether it was plain.

    Dropout is the adapter's, or that of the model's own attention.
    """
    config, passes = replace(FinetuneConfig(train=TRAIN, lora=Lora(dropout=dropout)), **changes), []

    def measured(network):
        assert plain(network)
        questions = batch.of_questions(examples[:4], pad=2)
        with torch.no_grad():
            return {"own": loss_sum(network.eval(), questions.tokens, questions.labels).item()}

    base = LanguageModel(copy.deepcopy(net), words, "small", is_mixed=mixed)
    for layer in sharded.layers(base.network) if config.method == "full" else ():
        layer.self_attn.attention_dropout = dropout
    base.network.register_forward_pre_hook(lambda own, _: passes.append(plain(own)) if own.training else None)
    options = {"seed": 3, "work": work, "evaluate": measured, "progress": told}
    tuned, trace = finetune.run(config, base, examples, learning_rate=rate, **options)
    assert plain(tuned.network) and not tuned.network.training
    return tuned.network, trace, passes


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed": True, "dropout": 0.0},
        {"train": replace(TRAIN, micro_batch_size=3)},
        {"method": "lora", "kl_weight": 0.5},
    ],
    ids=["full, mixed", "full, in passes", "lora, KL"],
)
def test_a_compiled_training_is_the_training_without(llama, words, examples, tmp_path, changes):
    """To rounding; what dropout draws is the same."""
    (net, trace, passes), (other, others, as_ever) = (
        run(
            *(llama, words, examples, tmp_path / str(is_compiled)),
            **changes | {"train": replace(changes.get("train", TRAIN), compile=is_compiled)},
        )
        for is_compiled in (True, False)
    )
    weights, expected = net.state_dict(), other.state_dict()
    assert list(weights) == list(expected)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-5)
    for one, ever in zip(trace, others, strict=True):
        assert one == pytest.approx(ever, rel=1e-5)
    assert trace[0] == others[0] and trace[-1]["own"] < trace[0]["own"]
    assert not any(passes) and all(as_ever) and len(passes) == len(as_ever) >= 8


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_training_ends_with_the_same_weights_bit_for_bit(llama, words, examples, tmp_path, method):
    _resumes(llama, words, examples, tmp_path, method)


def _resumes(llama, words, examples, tmp_path, method):
    shares = []

    def cut(doing, share):
        shares.append(share)
        if len(shares) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llama, words, examples, tmp_path / "cut", told=cut, method=method)
    found = run(llama, words, examples, tmp_path / "cut", method=method)
    whole = run(llama, words, examples, tmp_path / "whole", method=method)
    assert len(found[2]) == 2 and found[1] == whole[1]
    for name, weight in whole[0].state_dict().items():
        assert torch.equal(weight, found[0].state_dict()[name])


def test_a_model_is_plain_and_can_be_freed_after_a_training_that_diverges(llama, words, examples, tmp_path):
    seen = []
    llama.register_forward_pre_hook(lambda net, _: seen.append(net))
    with pytest.raises(DivergedError):
        run(llama, words, examples, tmp_path, rate=1e30)
    assert plain(seen[0])
    left = weakref.ref(seen[0])
    seen.clear()
    gc.collect()
    assert left() is None


def test_a_layer_that_is_no_single_graph_is_refused_before_anything_is_trained(llama, words):
    base = LanguageModel(llama, words, "small")
    config = FinetuneConfig(train=TRAIN)
    finetune.check_base(config, base)
    assert plain(llama)
    llama.model.layers[1].mlp.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(InputError, match=r"layers of llama cannot be compiled: .*\nLeave out --finetune.train.compile"):
        finetune.check_base(config, base)
    assert plain(llama)


def test_layers_that_are_compiled_too_often_are_told_of(llama, words, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "LIMIT", 1)
    with pytest.raises(InputError, match=r"cannot be compiled"):  # five rows, then one
        run(llama, words, examples[:6], tmp_path)


def test_a_machine_without_a_compiler_is_refused_before_anything_is_trained(llama, words, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    absent = torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))})
    with (
        absent,
        pytest.raises(InputError, match=r"nothing for cpu here \(No working C\+\+.*\nInstall a C\+\+"),
    ):
        finetune.check_base(FinetuneConfig(train=TRAIN), LanguageModel(llama, words, "small"))


def test_what_does_not_go_together_is_refused(llama, words):
    for name in ("packing", "gradient_checkpointing", "shard"):
        told = f"--finetune.train.compile does not go with --finetune.train.{name.replace('_', '-')}"
        with pytest.raises(InputError, match=told):
            train_config.check(replace(TRAIN, **{name: True}))
    train_config.check(TRAIN)
    llama.is_quantized = True
    with pytest.raises(InputError, match="its weights are quantised"):
        finetune.check_base(FinetuneConfig(method="lora", train=TRAIN), LanguageModel(llama, words, "small"))


@pytest.mark.slow
def test_the_compiler_itself_makes_the_same_training(llama, words, examples, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    try:
        finetune.check_base(FinetuneConfig(train=TRAIN), LanguageModel(llama, words, "small"))
    except InputError as error:
        pytest.skip(str(error))
    test_a_compiled_training_is_the_training_without(llama, words, examples, tmp_path, {})
    _resumes(llama, words, examples, tmp_path, "full")
