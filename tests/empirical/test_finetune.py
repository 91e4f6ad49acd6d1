import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
)

from core.config_json import config_hash
from core.errors import InputError
from core.facts.record import Fact
from empirical import finetune
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import batch, prompts
from empirical.lm.model import LanguageModel, ModelConfig, load, measuring, save
from empirical.lm.model import merged as merge
from empirical.lm.step import loss_sum
from empirical.lm.train_config import TrainConfig

QUICK = FinetuneConfig(train=TrainConfig(epochs=3, batch_size=4, n_records=1), lora=Lora(rank=2, dropout=0.1))


def _examples(words, names: Sequence[str] = "ABCDEFGH"):
    return prompts.encode(words, [prompts.build(Fact(n, n, "r", f"Who is {n}?", (f"baker {n}",))) for n in names])


def _run(config, llama, words, tmp_path, *, rate=1e-2, names="ABCDEFGH", seed=0):
    options = {"seed": seed, "work": tmp_path, "evaluate": lambda network: {}}
    return finetune.run(
        config, LanguageModel(llama, words, "made"), _examples(words, names), learning_rate=rate, **options
    )


def test_full_finetuning_lowers_the_loss_on_its_examples(llama, words, tmp_path):
    before = _loss(llama, words)
    tuned, trace = _run(replace(QUICK, train=replace(QUICK.train, epochs=10)), llama, words, tmp_path)
    assert trace[-1]["loss"] < 3 and tuned.network is llama and not llama.training
    assert _loss(llama, words) < before / 2


def _loss(net, words):
    questions = batch.of_questions(_examples(words), pad=2)
    with torch.no_grad():
        return float(loss_sum(net, questions.tokens, questions.labels))


def _tuned(precision, llama, words, tmp_path):
    """Return the share of elements that a small rate moves, the tuned model, and the loss at each recorded step."""
    if not (tmp_path / "base").exists():
        with torch.no_grad():
            for weight in llama.parameters():
                weight.mul_(8)
        save(LanguageModel(llama, words, "made"), tmp_path / "base")
    base = load(ModelConfig(str(tmp_path / "base"), precision=precision))
    before = [weight.detach().clone() for weight in base.network.parameters()]
    is_half = []

    def look(network):
        is_half.append(torch.is_autocast_enabled("cpu"))
        return {}

    options: dict[str, Any] = {"seed": 0, "work": tmp_path / precision, "evaluate": look, "learning_rate": 1e-5}
    tuned, trace = finetune.run(QUICK, base, _examples(words), **options)
    assert set(is_half) == {precision == "mixed"} and tuned.is_mixed == base.is_mixed == (precision == "mixed")
    pairs = list(zip(before, tuned.network.parameters(), strict=True))
    moved = sum(int((one != other).sum()) for one, other in pairs) / sum(one.numel() for one, _ in pairs)
    return moved, tuned, [record["loss"] for record in trace[1:]]


def test_in_mixed_precision_a_small_rate_moves_the_weights_that_it_moves_in_single(llama, words, tmp_path):
    (single, _, exact), (mixed, tuned, rounded), (half, _, _) = (
        _tuned(precision, llama, words, tmp_path) for precision in ("float32", "mixed", "bfloat16")
    )
    assert {weight.dtype for weight in tuned.network.parameters()} == {torch.float32}
    assert single > 0.3 and abs(mixed - single) < 0.02 * single and half < 0.1 * single
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_was_finetuned_comes_back_from_its_folder(method, llama, words, tmp_path):
    save(LanguageModel(llama, words, "made"), tmp_path / "base")
    base = load(ModelConfig(str(tmp_path / "base")))
    options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path / "work", "evaluate": lambda network: {}}
    tuned, _ = finetune.run(replace(QUICK, method=method), base, _examples(words), **options)
    save(tuned, tmp_path / "tuned")
    again = load(ModelConfig(str(tmp_path / "tuned")))
    assert _loss(again.network, words) == pytest.approx(_loss(tuned.network, words), rel=1e-5)
    assert _loss(again.network, words) < 0.98 * _loss(llama, words)
    assert (tmp_path / "tuned" / "adapter_config.json").exists() == (method == "lora")


def test_an_adapter_names_its_bases_revision(llama, words, tmp_path):
    base = LanguageModel(llama, words, "made", "abc")
    options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path / "work", "evaluate": lambda network: {}}
    tuned, _ = finetune.run(replace(QUICK, method="lora"), base, _examples(words), **options)
    save(tuned, tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned/adapter_config.json").read_text())["revision"] == "abc"


def test_an_adapter_leaves_the_bases_weights_as_they_were(llama, words, tmp_path):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    tuned, _ = _run(replace(QUICK, method="lora"), llama, words, tmp_path)
    after = tuned.network.state_dict()
    frozen = {name.replace("base_model.model.", "").replace(".base_layer", ""): value for name, value in after.items()}
    assert all(torch.equal(frozen[name], value) for name, value in before.items())
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in after.items())


def _logits(net):
    with torch.no_grad():
        return net(torch.arange(3, 40)[None], use_cache=False).logits


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("modules", [Lora().modules, ("lm_head", "q_proj")])
def test_an_adapter_is_added_to_single_weights_while_it_is_measured_and_the_base_is_as_it_was(
    modules, sizes, words, tmp_path
):
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).eval()
    before = {name: weight.clone() for name, weight in llama.state_dict().items()}
    config = replace(QUICK, method="lora", lora=replace(QUICK.lora, modules=modules))
    tuned, _ = _run(config, llama, words, tmp_path)
    layer: Any = tuned.network.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    expected = _logits(tuned.network)
    with pytest.raises(KeyboardInterrupt), measuring(tuned) as read:
        found = _logits(read.network)
        assert layer.merged and not torch.equal(layer.weight, before["model.layers.0.self_attn.q_proj.weight"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        raise KeyboardInterrupt
    assert torch.equal(_logits(tuned.network), expected) and not layer.merged
    with cast(Any, tuned.network).disable_adapter():
        base = _logits(tuned.network)
    assert not torch.allclose(base, expected, atol=1e-3)
    after = finetune.without_adapter(llama).state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_an_adapter_stays_beside_weights_in_half_precision(llama, words, tmp_path):
    tuned, _ = _run(replace(QUICK, method="lora"), llama.to(torch.bfloat16), words, tmp_path)
    expected = _logits(tuned.network)
    with measuring(tuned) as read:
        assert torch.equal(_logits(read.network), expected)


def test_adapters_of_one_seed_begin_alike_whatever_the_arm(llama, words, tmp_path, monkeypatch):
    starts = []

    def look(net, examples, *given, **more):
        starts.append({name: value.clone() for name, value in net.state_dict().items() if "lora_A" in name})
        return [{"step": 0}]

    monkeypatch.setattr(finetune.train, "fit", look)
    for names, seed in (("ABCD", 0), ("EFGHAB", 0), ("ABCD", 1)):
        torch.rand(7)  # whatever was drawn before
        tuned, _ = _run(replace(QUICK, method="lora"), llama, words, tmp_path, names=names, seed=seed)
        adapted: Any = tuned.network
        llama = adapted.unload()
    assert starts[0] and all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not any(torch.equal(starts[0][name], starts[2][name]) for name in starts[0])


def test_a_training_that_diverges_says_which_rate_to_lower(llama, words, tmp_path):
    with pytest.raises(InputError, match="--finetune.learning-rates"):
        _run(QUICK, llama, words, tmp_path, rate=1e30)


@pytest.mark.parametrize("modules", [("c_attn",), ("q_proj", "c_attn"), ("q_proj", "proj")])
def test_an_adapter_for_layers_that_are_not_there_is_refused(modules, llama, words, tmp_path):
    config = replace(QUICK, method="lora", lora=Lora(modules=modules))
    with pytest.raises(InputError, match=f"--finetune.lora.modules: .* has no layer {modules[-1]}"):
        _run(config, llama, words, tmp_path)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"frozen": ("query_key", "norms")}, lambda name: "q_proj" in name or "k_proj" in name or "norm" in name),
        ({"frozen_layers": 1}, lambda name: ".layers.0." in name),
        ({"frozen": ("mlp",), "frozen_layers": 1}, lambda name: ".mlp." in name or ".layers.0." in name),
    ],
)
def test_what_is_frozen_keeps_the_bases_weights_and_all_else_moves(changes, kept, llama, words, tmp_path):
    before = {name: weight.detach().clone() for name, weight in llama.named_parameters()}
    tuned, _ = _run(replace(QUICK, **changes), llama, words, tmp_path)
    same = {name for name, weight in tuned.network.named_parameters() if torch.equal(weight, before[name])}
    assert same == {name for name in before if kept(name)} != set()


def test_more_frozen_layers_than_there_are_are_refused(llama, words, tmp_path):
    with pytest.raises(InputError, match="has no layer 2"):
        _run(replace(QUICK, frozen_layers=3), llama, words, tmp_path)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_share_of_the_update_is_kept(method, llama, words, tmp_path):
    tuned_at = {}
    weights = {name: weight.detach().clone() for name, weight in llama.named_parameters()}
    for share in (0.0, 0.5, 1.0):
        net = type(llama)(llama.config).eval()
        net.load_state_dict(llama.state_dict())
        config = replace(QUICK, method=method, update_share=share)
        tuned, _ = _run(config, net, words, tmp_path / str(share))
        merged: Any = merge(tuned).network
        tuned_at[share] = {name: weight.detach() for name, weight in merged.named_parameters()}
    for name, base in weights.items():
        assert torch.equal(tuned_at[0.0][name], base)
        torch.testing.assert_close(tuned_at[0.5][name], (base + tuned_at[1.0][name]) / 2)
    assert any(not torch.equal(tuned_at[1.0][name], base) for name, base in weights.items())


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"learning_rates": ()}, "learning-rates"),
        ({"learning_rates": (0.0,)}, "learning-rates"),
        ({"lora": Lora(rank=0)}, "lora"),
        ({"lora": Lora(dropout=1.0)}, "lora"),
        ({"learning_rates": (1e-3, float("inf"))}, "learning-rates"),
        ({"lora": Lora(alpha=0.0)}, "--finetune.lora: .*alpha"),
        ({"lora": Lora(modules=())}, "--finetune.lora: .*modules"),
        ({"train": TrainConfig(epochs=0)}, "--finetune.train.epochs"),
        ({"train": TrainConfig(steps=0)}, "--finetune.train.steps"),
        ({"train": TrainConfig(warmup=1.0)}, "--finetune.train.warmup"),
        ({"train": TrainConfig(micro_batch_size=0)}, "--finetune.train.micro-batch-size"),
        ({"train": TrainConfig(micro_batch_tokens=0)}, "--finetune.train.micro-batch-tokens"),
        ({"train": TrainConfig(weight_decay=-1.0)}, "--finetune.train: weight-decay"),
        ({"frozen": ("heads",)}, "--finetune.frozen: there is no part 'heads'"),
        ({"frozen": ("query_key", "value_output", "mlp", "norms", "embeddings")}, "nothing to train"),
        ({"frozen_layers": -1}, "--finetune.frozen-layers"),
        ({"method": "lora", "frozen": ("mlp",)}, "--finetune.lora.modules"),
        ({"update_share": 1.5}, "--finetune.update-share"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes, flag):
    with pytest.raises(InputError, match=flag):
        finetune.check(replace(QUICK, **changes))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_all_linear_layers_get_an_adapter_whatever_they_are_called(words, tmp_path):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(words), "n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4}
    net: Any = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    config = replace(QUICK, method="lora", lora=Lora(rank=2, modules=("all-linear",)))
    tuned, _ = _run(config, net, words, tmp_path)
    assert _adapted(tuned.network) == {"c_attn", "c_proj", "c_fc"}
    with pytest.raises(InputError, match="all-linear(.|\n)*alone"):
        finetune.check(replace(config, lora=Lora(modules=("all-linear", "c_fc"))))


SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WITHOUT_LLAMAS_NAMES = {
    "gpt2": (GPT2Config(vocab_size=300, n_positions=256, n_embd=32, n_layer=2, n_head=4), {"c_attn", "c_proj", "c_fc"}),
    "neox": (
        GPTNeoXConfig(**SIZES, intermediate_size=64),
        {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    ),
    "phi3": (
        Phi3Config(**SIZES, intermediate_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    ),
}


def _adapted(network):
    names = [name.partition(".lora_A") for name, _ in network.named_parameters()]
    return {layer.rpartition(".")[2] for layer, found, _ in names if found}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", WITHOUT_LLAMAS_NAMES)
def test_the_default_adapts_every_linear_layer_but_the_head_where_llamas_names_are_absent(name, words):
    config, layers = WITHOUT_LLAMAS_NAMES[name]
    net = AutoModelForCausalLM.from_config(config).eval()
    finetune.check_base(replace(QUICK, method="lora"), LanguageModel(net, words, name))
    assert _adapted(finetune.with_adapter(Lora(rank=2), net, name)) == layers


def test_the_default_is_llamas_own_layers_in_a_llama_and_its_hash_is_as_it_was(llama):
    adapted = finetune.with_adapter(Lora(rank=2), llama, "small")
    assert _adapted(adapted) == set(Lora().modules)
    assert config_hash(Lora()).startswith("c6486495ac1e3354")


@pytest.mark.parametrize(("modules", "message"), [(("c_attn",), "has no layer c_attn"), (("mlp",), "no adapter fits")])
def test_layers_that_take_no_adapter_are_refused_beforehand_and_the_model_is_left_as_it_is(
    modules, message, llama, words
):
    before, state = {name: id(module) for name, module in llama.named_modules()}, torch.get_rng_state()
    base = LanguageModel(llama, words, "made")
    with pytest.raises(InputError, match=message):
        finetune.check_base(replace(QUICK, method="lora", lora=Lora(modules=modules)), base)
    finetune.check_base(replace(QUICK, method="lora"), base)
    assert {name: id(module) for name, module in llama.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_adapter_names_its_base_by_where_it_lies(llama, words, tmp_path, monkeypatch):
    save(LanguageModel(llama, words, "made"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path / "work", "evaluate": lambda network: {}}
    tuned, _ = finetune.run(replace(QUICK, method="lora"), load(ModelConfig("base")), _examples(words), **options)
    save(tuned, tmp_path / "tuned")
    named = json.loads((tmp_path / "tuned/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / "base")


def test_quantised_weights_are_not_trained_but_an_adapter_on_them_is(llama, words, tmp_path):
    llama.is_quantized = True
    with pytest.raises(InputError, match=r"quantised(.|\n)*--finetune.method lora"):
        finetune.check_base(QUICK, LanguageModel(llama, words, "made"))
    finetune.check_base(replace(QUICK, method="lora"), LanguageModel(llama, words, "made"))


def test_the_end_is_learnt_where_it_is_the_padding_too(llama, words):
    """As of GPT-2 and many others, which have no padding of their own."""
    examples = _examples(words, ("A", "Barnabas"))
    end = words.eos_token_id
    questions = batch.of_questions(examples, pad=end)
    assert len({len(one.tokens) for one in examples}) == 2
    assert [int((row == end).sum()) for row in questions.labels] == [1, 1]
    with torch.no_grad():
        together = float(loss_sum(llama, questions.tokens, questions.labels))
    assert together == pytest.approx(_loss_of(llama, examples), rel=1e-5)
    spoilt = [replace(one, tokens=(*one.tokens[:-1], 7)) for one in examples]
    assert _loss_of(llama, spoilt) != pytest.approx(together, rel=1e-5)


def _loss_of(net, examples):
    """Return the sum of each one's loss alone, without padding."""
    total = 0.0
    for one in examples:
        questions = batch.of_questions([one], pad=0)
        with torch.no_grad():
            total += float(loss_sum(net, questions.tokens, questions.labels))
    return total
