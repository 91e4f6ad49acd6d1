"""What is read of a stored model without its weights."""

import json

import pytest

from core.errors import InputError
from empirical.lm import files


@pytest.fixture
def folder(words, tmp_path):
    """Return a folder that holds a tokenizer alone."""
    words.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_a_tokenizer_without_padding_pads_with_its_end(words):
    words.pad_token = None
    try:
        assert files.with_pad(words).pad_token == words.eos_token
    finally:
        words.pad_token = "<pad>"


def test_a_tokenizer_is_read_once_until_its_files_change(folder, words):
    first = files.read_tokenizer(str(folder))
    assert files.read_tokenizer(str(folder)) is first and first.eos_token == words.eos_token
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": "<pad>"}))
    assert files.read_tokenizer(str(folder)).eos_token == "<pad>"


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="words: cannot be loaded .*tokenizer.json is damaged"):
        files.read_tokenizer(str(folder))


def test_an_adapter_is_told_by_its_settings_and_its_base_is_looked_for_from_it_and_from_beside_it(folder, tmp_path):
    assert not files.is_adapter(str(folder)) and not files.is_adapter("owner/name")
    (folder / "adapter_config.json").write_text("{}")
    assert files.is_adapter(str(folder))
    (tmp_path / "base").mkdir()
    assert str(files.base_of(folder, "base")) == "base"  # as if typed here
    (tmp_path / "base" / "config.json").touch()
    assert files.base_of(folder, "base") == tmp_path / "base"
    assert files.base_of(folder, "../base") == folder / "../base"
