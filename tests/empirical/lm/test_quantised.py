"""A base read in 4 bits, and an adapter trained on it; what needs bitsandbytes skips itself where it is missing."""

import importlib.util
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.errors import InputError
from core.facts.record import Fact
from empirical import config as configs
from empirical import finetune, room
from empirical.config import Config
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import identity, model, prompts
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.train import TrainConfig
from empirical.mediation import MediationConfig

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the package bitsandbytes is not installed"
)
LORA = FinetuneConfig(
    method="lora", lora=Lora(rank=4, dropout=0.0), train=TrainConfig(epochs=10, batch_size=4, n_records=4)
)


@pytest.fixture
def folder(llama, words, tmp_path):
    """Return a checkpoint of random weights."""
    model.save(LanguageModel(llama, words, "made"), tmp_path / "base")
    return tmp_path / "base"


def _logits(net: Any) -> torch.Tensor:
    with torch.no_grad():
        return net(torch.arange(3, 40)[None], use_cache=False).logits


@needs_package
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_adapter_is_trained_on_a_base_of_4_bits_which_stays_as_it_is(folder, llama, words, tmp_path):
    settings = ModelConfig(str(folder), quantise="nf4")
    base = model.load(settings)
    layer: Any = base.network.get_submodule("model.layers.0.mlp.up_proj")
    assert base.is_quantised and layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == llama.model.layers[0].mlp.up_proj.weight.numel() // 2
    head: Any = base.network.get_output_embeddings()
    assert head.weight.dtype == torch.float32
    read = _logits(base.network)
    assert 0 < (read - _logits(llama)).norm() < 0.3 * _logits(llama).norm()
    facts = [Fact(n, n, "r", f"Who is {n}?", (f"baker {n}",)) for n in "ABCDEFGH"]
    examples = prompts.encode(words, [prompts.build(fact) for fact in facts])
    options: Any = {"seed": 0, "work": tmp_path / "work", "evaluate": lambda network: {}}
    before = layer.weight.detach().clone()
    tuned, trace = finetune.run(LORA, base, examples, learning_rate=3e-2, **options)
    assert trace[-1]["loss"] < trace[1]["loss"] - 0.1 and torch.equal(layer.weight, before)
    found = _logits(tuned.network)
    with model.measuring(tuned) as measured:
        assert torch.equal(_logits(measured.network), found)
    with pytest.raises(InputError, match="hold no adapter"):
        model.merged(tuned)
    model.save(tuned, tmp_path / "tuned")
    again = model.load(replace(settings, name=str(tmp_path / "tuned")))
    torch.testing.assert_close(_logits(again.network), found)
    assert torch.equal(_logits(finetune.without_adapter(base.network)), read)
    with pytest.raises(InputError, match=r"quantised(.|\n)*--finetune.method lora"):
        finetune.check_base(FinetuneConfig(), base)


def test_without_the_package_4_bits_are_refused(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--model.quantise nf4 needs the package bitsandbytes"):
        model.load(ModelConfig(str(folder), quantise="nf4"))


def test_what_is_quantised_is_not_quantised_again(folder):
    settings = folder / "config.json"
    method = {"quant_method": "gptq", "bits": 4}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"quantization_config": method}))
    with pytest.raises(InputError, match=r"--model.quantise: .*are quantised \(gptq\)"):
        model.load(ModelConfig(str(folder), quantise="nf4"))


def test_4_bits_are_refused_under_training_of_every_weight_and_where_weights_are_given_on(folder):
    quantised = ModelConfig(str(folder), quantise="nf4")
    config = Config(model=quantised)
    with pytest.raises(InputError, match=r"--model.quantise(.|\n)*--finetune.method lora"):
        room.check(config, quantised)
    room.check(config, quantised, trains=False)
    room.check(replace(config, finetune=LORA), quantised)
    paired = replace(config, model=quantised, mediation=MediationConfig(pairs=("bottom:top",)))
    with pytest.raises(InputError, match=r"--model.quantise(.|\n)*--mediation.pairs"):
        configs.check(replace(paired, facts=replace(config.facts, source="popqa"), finetune=LORA))


def test_a_base_of_4_bits_is_another_model_and_half_a_byte_a_weight(folder, llama):
    whole = ModelConfig(str(folder), precision="float32")
    quantised = replace(whole, quantise="nf4")
    assert identity.of(quantised) == identity.of(whole) | {"quantise": "nf4"}
    config = Config(finetune=LORA)
    linear = sum(one.weight.numel() for one in llama.model.modules() if isinstance(one, torch.nn.Linear))
    one, other = room.of(config, whole), room.of(config, quantised)
    assert one.weights - other.weights == 3.5 * linear and one.training == other.training > 0
