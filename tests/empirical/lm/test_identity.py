"""What is kept of a model is never taken for another's."""

import json
import os
from dataclasses import replace

import pytest
import torch

from empirical.lm import identity
from empirical.lm.model import ModelConfig

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(llama, words, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_is_known_by_its_content_wherever_it_lies(folder, llama, tmp_path):
    first = identity.weights(str(folder))
    moved = folder.rename(tmp_path / "moved")
    for file in moved.iterdir():
        os.utime(file, (1, 1))
    (moved / "pretraining.json").write_text('{"seconds": 7}')
    assert identity.weights(str(moved)) == first
    with torch.no_grad():
        next(llama.parameters())[0, 0] += 1  # of the same size
    llama.save_pretrained(moved)
    assert identity.weights(str(moved)) != first


def test_a_file_is_read_once_until_it_changes(folder, monkeypatch):
    first, read = identity.weights(str(folder)), []
    monkeypatch.setattr(identity.hashlib, "file_digest", lambda *given: read.append(given))
    assert identity.weights(str(folder)) == first and not read


def test_an_adapter_of_another_base_is_another_model(folder, llama, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../model"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    first = identity.weights(str(adapter))
    with torch.no_grad():
        next(llama.parameters())[0, 0] += 1
    llama.save_pretrained(folder)
    assert identity.weights(str(adapter)) != first


def test_a_hubs_model_is_known_by_its_commit(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--a--b/snapshots" / SHA / "config.json"
    monkeypatch.setattr(identity, "cached_file", lambda *_, **__: str(snapshot))
    assert identity.weights("a/of-the-hub") == SHA
    monkeypatch.setattr(identity, "cached_file", lambda *_, **__: (_ for _ in ()).throw(OSError))
    assert identity.weights("a/nowhere") is None
    first, second = (identity.of(ModelConfig("a/nowhere", revision)) for revision in ("one", "two"))
    assert first["weights"] != second["weights"]


def test_precision_and_chat_make_another_model_and_the_flags_word_for_it_does_not(folder):
    given = ModelConfig(str(folder), precision="float32")
    assert identity.of(given) != identity.of(replace(given, precision="bfloat16"))
    assert identity.of(given) != identity.of(replace(given, chat=True))
    assert identity.of(replace(given, precision="auto"))["precision"] in ("float32", "bfloat16")
