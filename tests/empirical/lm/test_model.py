import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from core import console
from core.errors import InputError
from core.facts.record import Fact
from empirical.lm import model, reading
from empirical.lm.model import LanguageModel, ModelConfig


@pytest.fixture
def folder(llama, words, tmp_path):
    model.save(LanguageModel(llama, words, "made"), tmp_path / "model")
    return tmp_path / "model"


def _logits(net):
    with torch.no_grad():
        return net(torch.tensor([[1, 5, 7, 9]])).logits


def test_a_saved_model_comes_back_with_its_tokenizer(folder, llama, words):
    found = model.load(ModelConfig(str(folder)))
    assert not found.network.training and found.pad == words.pad_token_id
    assert found.tokenizer("Hello there")["input_ids"] == words("Hello there")["input_ids"]
    torch.testing.assert_close(_logits(found.network), _logits(llama))


def test_a_save_that_fails_leaves_no_folder(llama, words, tmp_path, monkeypatch):
    monkeypatch.setattr(type(words), "save_pretrained", lambda self, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(LanguageModel(llama, words, "made"), tmp_path / "half")
    assert not (tmp_path / "half").exists()
    monkeypatch.undo()
    model.save(LanguageModel(llama, words, "made"), tmp_path / "half")  # what is left of the first is in nobody's way
    torch.testing.assert_close(_logits(model.load(ModelConfig(str(tmp_path / "half"))).network), _logits(llama))
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def _adapter(llama, words, folder, base):
    llama.name_or_path = str(base)
    net = get_peft_model(llama, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save(LanguageModel(net.eval(), words, "made"), folder)
    settings = folder / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": str(base)}))
    return net


def test_an_adapter_is_put_on_the_base_that_it_names(folder, llama, words, tmp_path):
    before = _logits(llama)
    net = _adapter(llama, words, tmp_path / "adapter", folder)
    found = model.load(ModelConfig(str(tmp_path / "adapter")))
    torch.testing.assert_close(_logits(found.network), _logits(net))
    assert not torch.allclose(_logits(found.network), before)


def test_an_adapters_base_is_loaded_at_the_revision_that_it_names(folder, llama, words, tmp_path, monkeypatch):
    _adapter(llama, words, tmp_path / "adapter", folder)
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"revision": "abc"}))
    asked, real = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda name, *, revision, **more: asked.append((name, revision)) or real(name, **more),
    )
    model.load(ModelConfig(str(tmp_path / "adapter")))
    assert asked == [(str(folder), "abc")]


def test_an_adapter_of_a_base_of_other_shapes_is_refused(folder, llama, words, tmp_path):
    sizes = llama.config.to_dict() | {"hidden_size": 64, "head_dim": 16}
    other = tmp_path / "other"
    model.save(LanguageModel(LlamaForCausalLM(LlamaConfig(**sizes)).eval(), words, "other"), other)
    _adapter(llama, words, tmp_path / "adapter", other)
    with pytest.raises(InputError, match="does not fit its base(.|\n)*base_model_name_or_path"):
        model.load(ModelConfig(str(tmp_path / "adapter")))


def test_an_adapter_whose_base_is_gone_says_where_to_name_it(folder, llama, words, tmp_path):
    _adapter(llama, words, tmp_path / "adapter", folder)
    folder.rename(tmp_path / "moved")
    with pytest.raises(
        InputError, match=r"base cannot be loaded: .*no such folder(.|\n)*base_model_name_or_path"
    ) as caught:
        model.load(ModelConfig(str(tmp_path / "adapter")))
    assert str(caught.value).startswith(str(tmp_path / "adapter"))


@pytest.mark.parametrize("damage", ["gone", "cut", "of other layers", "of another rank"])
def test_an_adapter_that_is_not_whole_is_refused(damage, folder, llama, words, tmp_path):
    _adapter(llama, words, tmp_path / "adapter", folder)
    path, settings = (tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    if damage == "gone":
        path.unlink()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    changed = {"of other layers": {"target_modules": ["v_proj"]}, "of another rank": {"r": 4}}.get(damage, {})
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changed))
    with pytest.raises(InputError, match="does not fit its base"):
        model.load(ModelConfig(str(tmp_path / "adapter")))


@pytest.mark.parametrize(
    "settings", ["{", "[]", "{}", *(f'{{"base_model_name_or_path": {x}}}' for x in ("null", '""', 5))]
)
def test_an_adapter_that_names_no_base_is_refused(settings, folder):
    (folder / "adapter_config.json").write_text(settings)
    with pytest.raises(InputError, match="names no base model"):
        model.load(ModelConfig(str(folder)))


def test_an_adapter_that_names_itself_is_refused(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(InputError, match="names no base model"):
        model.load(ModelConfig(str(folder)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b'{"model_type": '),
        ("config.json", b"null"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b'{"model_type": "nothing of the kind"}'),
        ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}'),
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer.json", None),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_line(name, content, folder):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    _refused(folder)


@pytest.mark.parametrize("n_bytes", [1000, -1])
def test_truncated_weights_are_refused(n_bytes, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    _refused(folder)


def test_weights_that_are_missing_are_not_made_up(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    assert "1 weights are missing, model.layers.1.mlp.up_proj.weight" in _refused(folder)


def _refused(folder):
    with pytest.raises(InputError, match="cannot be loaded as a causal language model") as caught:
        model.load(ModelConfig(str(folder)))
    assert str(caught.value).startswith(str(folder)) and len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def test_a_folder_that_is_no_checkpoint_and_a_path_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        model.load(ModelConfig(str(tmp_path)))
    with pytest.raises(InputError, match="no such folder"):
        model.load(ModelConfig(str(tmp_path / "gone")))


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_input(monkeypatch):
    def refuse(*given, **more):
        raise OSError("We couldn't connect to the hub.\nMore about it.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(InputError, match="owner/name: cannot be loaded .*couldn't connect"):
        model.load(ModelConfig("owner/name"))


def test_without_a_network_a_hub_id_is_an_error_of_the_input_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/name", "no name of a model!"):
        with pytest.raises(InputError, match=f"{name}: cannot be loaded"):
            model.load(ModelConfig(name))


def test_a_tokenizer_that_changed_since_is_read_anew(folder, words):
    assert model.load(ModelConfig(str(folder))).tokenizer.eos_token == words.eos_token
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": "<pad>"}))
    assert model.load(ModelConfig(str(folder))).tokenizer.eos_token == "<pad>"
    (folder / "tokenizer.json").write_text("{}")
    _refused(folder)


def test_a_vocabulary_in_files_of_its_own_that_changed_since_is_read_anew(folder, words):
    """As checkpoints older than tokenizer.json keep it."""
    made = json.loads(words.backend_tokenizer.to_str())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(made["vocab"]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}))
    merges = [" ".join(pair) for pair in made["merges"]]
    lengths = []
    for kept in (merges, merges[: len(merges) // 8]):
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *kept]))
        lengths.append(len(model.load(ModelConfig(str(folder))).tokenizer("What is the river of it?")["input_ids"]))
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize(
    ("device", "precision", "of_all", "of_an_adapter"),
    [
        ("cpu", "auto", "float32", "float32"),
        ("cuda", "auto", "mixed", "bfloat16"),
        *((device, one, one, one) for device in ("cpu", "cuda") for one in ("float32", "mixed", "bfloat16")),
    ],
)
def test_auto_is_mixed_only_where_all_weights_are_trained_on_a_gpu(
    device, precision, of_all, of_an_adapter, monkeypatch
):
    monkeypatch.setattr(model, "device", lambda: torch.device(device))
    assert model.resolved(precision, trains_all=True) == of_all
    assert model.resolved(precision, trains_all=False) == of_an_adapter


def _types(loaded):
    return {weight.dtype for weight in loaded.network.parameters()}


@pytest.mark.parametrize("is_adapter", [False, True])
def test_mixed_precision_has_single_weights_and_is_measured_in_half(is_adapter, folder, llama, words, tmp_path):
    name = str(tmp_path / "adapter") if is_adapter else str(folder)
    if is_adapter:
        _adapter(llama, words, tmp_path / "adapter", folder)
    mixed, single = (model.load(ModelConfig(name, precision=one)) for one in ("mixed", "float32"))
    assert _types(mixed) == {torch.float32} and mixed.is_mixed and not single.is_mixed
    assert all(torch.equal(one, other) for one, other in zip(*map(_weights, (mixed, single)), strict=True))
    read = model.measured(mixed)
    assert _types(read) == {torch.bfloat16} and not read.is_mixed and (read.name, read.pad) == (mixed.name, mixed.pad)
    expected = [weight.to(torch.bfloat16) for weight in _weights(single)]
    assert all(torch.equal(one, other) for one, other in zip(_weights(read), expected, strict=True))
    assert model.measured(single) is single and _types(single) == {torch.float32}


def _weights(loaded):
    return list(loaded.network.parameters())


def test_precision_is_single_on_a_processor_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(model, "device", lambda: torch.device("cpu"))
    assert model.dtype("auto") == torch.float32 and model.dtype("bfloat16") == torch.bfloat16
    monkeypatch.setattr(model, "device", lambda: torch.device("cuda"))
    assert model.dtype("auto") == torch.bfloat16


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not PAGES.exists() or "[never]" in PAGES.read_text(), reason="no large pages on this system")
def test_large_tensors_take_large_pages_as_soon_as_the_flow_is_imported():
    script = "from empirical.lm import model; import resource, torch\n"
    script += "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    script += "before = faults(); torch.ones(2**26); print(faults() - before)"
    plain = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=plain, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2**28 / 4096 / 4


def _noted(folder, capsys):
    console.note.cache_clear()
    for _ in range(2):
        model.load(ModelConfig(str(folder)))
    return capsys.readouterr().err


def _without_beginning(folder, words, **settings):
    """Save the tokenizer anew, so that it no longer puts its first token before a text."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_tokenizer_that_leaves_out_the_beginning_is_told_once(folder, words, capsys):
    assert _noted(folder, capsys) == ""
    _without_beginning(folder, words)
    told = _noted(folder, capsys)
    assert told.count("does not begin a text with <s>") == 1 and "Take tokenizer.json" in told


@pytest.mark.parametrize(
    ("says", "kind", "is_told"),
    [
        ({"add_bos_token": True}, "gpt2", True),
        ({"add_bos_token": False}, "llama", True),
        ({"add_bos_token": False, "bos_token": "</s>"}, "llama", False),  # as of GPT-2: begin and end are one
        ({"bos_token": "<pad>"}, "llama", False),  # SmolLM2's opens a turn, and no text
        ({}, "qwen2", False),
    ],
)
def test_a_beginning_is_missed_only_where_the_model_had_one(says, kind, is_told, folder, words):
    _without_beginning(folder, words, **says)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = AutoConfig.for_model(kind, bos_token_id=0)
    assert (model._missing_beginning(ModelConfig(str(folder)), settings, tokenizer) is not None) == is_told


def test_a_padding_that_the_model_has_no_embedding_of_is_the_end(llama, words):
    assert LanguageModel(llama, words, "made").pad == words.pad_token_id
    longer = copy.deepcopy(words)
    longer.add_special_tokens({"pad_token": "[PAD]"})
    assert longer.pad_token_id >= llama.config.vocab_size
    padded = LanguageModel(llama, longer, "made")
    assert padded.pad == words.eos_token_id
    facts = [Fact(str(i), name, "r", f"Who is {name}?", ("baker",)) for i, name in enumerate(("A", "Barnabas"))]
    given = reading.read(llama, padded.format.ask(facts), padded.pad)
    assert torch.isfinite(reading.logprob(llama, given.questions, cache=given.cache)).all()


@pytest.mark.parametrize("place", ["adapter", "beside", "here"])
def test_a_relative_base_is_looked_for_by_the_adapter_and_then_here(place, folder, llama, words, tmp_path, monkeypatch):
    net = _adapter(llama, words, tmp_path / "all" / "adapter", folder)
    settings = tmp_path / "all" / "adapter" / "adapter_config.json"
    where = {"adapter": tmp_path / "all" / "adapter", "beside": tmp_path / "all", "here": tmp_path / "here"}[place]
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "own/base"}))
    (where / "own").mkdir(parents=True)
    folder.rename(where / "own" / "base")
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    found = model.load(ModelConfig(str(tmp_path / "all" / "adapter")))
    torch.testing.assert_close(_logits(found.network), _logits(net))


def test_a_folder_with_a_gguf_file_alone_says_to_name_that(tmp_path):
    (tmp_path / "a.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"Name the file itself: .*/a.Q4_0.gguf$"):
        model.load(ModelConfig(str(tmp_path)))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "pip install optimum gptqmodel"),
    ],
)
def test_a_quantised_checkpoint_says_which_package_reads_it(method, says, folder):
    if importlib.util.find_spec("bitsandbytes") or importlib.util.find_spec("optimum"):
        pytest.skip("the package is there")
    settings = folder / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"quantization_config": method}))
    assert says in _refused(folder)


def test_quantised_weights_are_left_where_they_are(folder, monkeypatch):
    real: Any = AutoModelForCausalLM.from_pretrained

    def quantised(*given, **options):
        net, report = real(*given, **options)
        net.is_quantized = True
        net.to = lambda *given, **more: pytest.fail("moved")
        return net, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantised)
    found = model.load(ModelConfig(str(folder), precision="mixed"))
    assert found.is_quantised and model.measured(found) is found


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04" + bytes(50)])
def test_damaged_weights_of_the_older_kind_are_refused(content, folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    _refused(folder)


def test_a_mistake_of_our_own_is_not_taken_for_a_damaged_checkpoint(folder, monkeypatch):
    def broken(*given, **more):
        raise RuntimeError("ours")

    monkeypatch.setattr(model.formats, "of", broken)
    with pytest.raises(RuntimeError, match="ours"):
        model.load(ModelConfig(str(folder)))


def test_too_little_memory_is_not_taken_for_a_damaged_checkpoint(folder, monkeypatch):
    def full(*given, **more):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        model.load(ModelConfig(str(folder)))
