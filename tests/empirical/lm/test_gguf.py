"""A small Llama and its byte-level tokenizer, written as llama.cpp would, and read back."""

import copy
import json
import threading
from types import SimpleNamespace
from typing import Any

import gguf as written
import numpy as np
import psutil
import pytest
import torch
from huggingface_hub import constants

from core.errors import InputError
from empirical.lm import generate, gguf, model
from empirical.lm.model import ModelConfig

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""transformers' names of a Llama's tensors, and llama.cpp's."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep converted models apart from the machine's own; returns the folder."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub" / "finetuning-facts"


@pytest.fixture
def net(llama):
    """Return the small Llama with weights so large that a mix-up would show."""
    with torch.no_grad():
        for weight in llama.parameters():
            weight.mul_(8) if weight.ndim > 1 else weight.add_(0.3 * torch.randn_like(weight))
    return llama


def _permuted(weight, n_heads):
    """Return a query or key matrix with the rows of each head interleaved, as llama.cpp turns neighbours."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _llamacpps_name(name):
    stem = name.removesuffix(".weight")
    if stem in NAMES:
        return f"{NAMES[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def _write(path, net, words, *, architecture="llama", begins=False, leave_out=()):
    """Write the model and its tokenizer as a GGUF file of float32 tensors, and return its path."""
    config, writer = net.config, written.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = words.convert_ids_to_tokens(list(range(len(words))))
    kinds = {True: written.TokenType.CONTROL, False: written.TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[token in words.all_special_tokens] for token in tokens])
    merges = json.loads(words.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_pad_token_id(words.pad_token_id)
    writer.add_add_bos_token(begins)
    if words.chat_template:
        writer.add_chat_template(words.chat_template)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in net.state_dict().items():
        if name not in leave_out:
            n_heads = next((n for part, n in heads.items() if part in name), None)
            weight = tensor.numpy() if n_heads is None else _permuted(tensor.numpy(), n_heads)
            writer.add_tensor(_llamacpps_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _logits(net):
    with torch.no_grad():
        return net(torch.tensor([[1, 5, 7, 9, 100, 33, 2, 250, 41]])).logits


def _kept(cache):
    """Return what the cache holds, beside the files that processes lock."""
    return sorted(one for one in cache.iterdir() if one.name != ".locks") if cache.exists() else []


def _refused(path, cache, match):
    """Check that the file is refused in a line or two, and that nothing of it is left."""
    with pytest.raises(InputError, match=match) as refused:
        model.load(ModelConfig(str(path)))
    assert str(refused.value).startswith(f"{path}: ") and len(str(refused.value).splitlines()) == 2
    assert not _kept(cache)


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_converted_model_is_the_one_that_was_written(is_tied, net, words, tmp_path):
    if is_tied:
        net.config.tie_word_embeddings = True
        net.tie_weights()
    path = _write(tmp_path / "small.gguf", net, words, leave_out=("lm_head.weight",) if is_tied else ())
    found = model.load(ModelConfig(str(path)))
    assert found.name == str(path) and not found.network.training
    assert _logits(net).std() > 0.5
    torch.testing.assert_close(_logits(found.network), _logits(net), atol=1e-5, rtol=0)
    prompts = [words(text)["input_ids"] for text in ("Hello there", "What is it?", "The river")]
    settings: dict[str, Any] = {"max_new_tokens": 12, "stop": frozenset(), "pad": words.pad_token_id, "batch_size": 2}
    assert generate.greedy(found.network, prompts, **settings) == generate.greedy(net, prompts, **settings)


@pytest.mark.parametrize("begins", [False, True])
def test_its_tokenizer_is_the_files_and_begins_texts_as_the_file_says(begins, net, words, tmp_path):
    path = _write(tmp_path / "small.gguf", net, words, begins=begins)
    found = model.load(ModelConfig(str(path))).tokenizer
    for text in ("Where was Ann born?", "Zürich, 1999 – naïve", " two  spaces\nand a line"):
        assert found(text)["input_ids"] == words(text, add_special_tokens=begins)["input_ids"]
        assert found.decode(found(text, add_special_tokens=False)["input_ids"]) == text
    for role in ("bos", "eos", "pad"):
        assert getattr(found, f"{role}_token_id") == getattr(words, f"{role}_token_id")


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.role + '\n' + m.content }}{% endfor %}\n"])
def test_a_chat_template_is_the_files(template, net, words, tmp_path):
    words = copy.deepcopy(words)
    words.chat_template = template
    found = model.load(ModelConfig(str(_write(tmp_path / "small.gguf", net, words))))
    assert found.tokenizer.chat_template == template


def test_a_file_is_converted_once_and_known_by_its_content(net, words, tmp_path, cache, monkeypatch):
    path = _write(tmp_path / "small.gguf", net, words)
    folder = gguf.convert(path)
    assert folder.parent == cache and _kept(cache) == [folder]
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_write", lambda *given: pytest.fail("converted again"))
        assert gguf.convert(path) == folder
        assert gguf.convert(path.rename(tmp_path / "moved.gguf")) == folder
    with torch.no_grad():
        net.lm_head.weight.add_(1)
    other = gguf.convert(_write(path, net, words))
    assert _kept(cache) == sorted([folder, other]) and other != folder


def test_of_two_that_convert_at_once_one_does(net, words, tmp_path, cache, monkeypatch):
    path, real, found, written = _write(tmp_path / "small.gguf", net, words), gguf._write, [], []
    other = threading.Thread(target=lambda: found.append(gguf.convert(path)))

    def meanwhile(path, metadata, partial):
        written.append(partial)
        if len(written) == 1:
            other.start()
            other.join(0.3)  # it waits; it would be through by then
        real(path, metadata, partial)

    monkeypatch.setattr(gguf, "_write", meanwhile)
    folder = gguf.convert(path)
    other.join()
    assert found == [folder] and len(written) == 1 and _kept(cache) == [folder]


def test_what_a_killed_process_left_is_written_over(net, words, tmp_path, cache):
    path = _write(tmp_path / "small.gguf", net, words)
    left = cache / f".gguf-{gguf.digest(path)[:16]}.partial"
    left.mkdir(parents=True)
    (left / "half").touch()
    folder = gguf.convert(path)
    assert _kept(cache) == [folder] and not (folder / "half").exists()


def test_a_file_that_is_not_there_or_not_gguf_is_refused(tmp_path, cache):
    _refused(tmp_path / "gone.gguf", cache, "no such file")
    for content in (b"", b"GG", b"PK\3\4 something else"):
        (tmp_path / "other.gguf").write_bytes(content)
        _refused(tmp_path / "other.gguf", cache, "not a GGUF file")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(share, net, words, tmp_path, cache):
    path = _write(tmp_path / "small.gguf", net, words)
    content = path.read_bytes()
    path.write_bytes(content[: max(4, int(share * len(content)))])
    _refused(path, cache, "damaged or cut off")


def test_an_architecture_that_transformers_does_not_read_is_named(net, words, tmp_path, cache):
    _refused(_write(tmp_path / "x.gguf", net, words, architecture="abacus"), cache, "of the architecture 'abacus'")


def test_a_file_without_one_of_its_weights_is_refused(net, words, tmp_path, cache):
    absent = "model.layers.1.mlp.up_proj.weight"
    _refused(_write(tmp_path / "x.gguf", net, words, leave_out=(absent,)), cache, f"1 weights are missing, {absent}")


def test_too_little_memory_is_said_before_anything_is_read(net, words, tmp_path, cache, monkeypatch):
    path, n = _write(tmp_path / "small.gguf", net, words), sum(tensor.numel() for tensor in net.parameters())
    needed = int(gguf.MEMORY_FACTOR * 4 * n)
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_write", lambda *given: pytest.fail("read"))
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
        _refused(path, cache, "million parameters take about .* GB are free")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed + 1))
    assert gguf.convert(path).exists()


def _other_end(words):
    """Return the tokenizer with another token as its end."""
    other = copy.deepcopy(words)
    other.eos_token = other.pad_token
    return other


def test_a_rebuilt_tokenizer_that_is_not_the_files_is_refused(net, words, tmp_path, cache, monkeypatch):
    path, real = _write(tmp_path / "small.gguf", net, words), gguf.AutoTokenizer.from_pretrained
    for change, difference in (
        (_other_end, "its eos token is 1, and the rebuilt tokenizer's 2"),
        (lambda _: words, "whether texts begin with <s> is not as the file says"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(gguf.AutoTokenizer, "from_pretrained", lambda change=change, **given: change(real(**given)))
            _refused(path, cache, f"rebuilds another tokenizer: {difference}")
    assert gguf.convert(path).exists()


def test_a_tokenizer_with_other_numbers_or_none_at_all_is_refused(words, tmp_path):
    tokens = words.convert_ids_to_tokens(list(range(len(words))))
    metadata: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": words.eos_token_id}
    gguf.check_tokenizer(tmp_path, words, metadata)
    swapped = [*tokens[:-2], tokens[-1], tokens[-2]]
    longer = [*tokens, *(f"more{i}" for i in range(len(tokens)))]
    for other, told in ((swapped, "and 2 have another number"), (longer, "where the file has"), ([], "no tokenizer")):
        with pytest.raises(InputError, match=told):
            gguf.check_tokenizer(tmp_path, words, metadata | {"tokenizer.ggml.tokens": other})


def test_a_conversion_that_fails_leaves_nothing(net, words, tmp_path, cache, monkeypatch):
    path = _write(tmp_path / "small.gguf", net, words)
    monkeypatch.setattr(gguf, "save_file", lambda *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gguf.convert(path)
    assert not _kept(cache)
