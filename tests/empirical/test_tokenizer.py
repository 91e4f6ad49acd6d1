import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from empirical import tokenizer
from theory.errors import InputError

WORDS = tokenizer.train(["Ann Bo is a sailor.", "Question: Who?\nAnswer: Bo"] * 9, size=320)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_between_its_begin_and_no_end(text):
    tokens = WORDS(text)["input_ids"]
    assert tokens[0] == WORDS.bos_token_id and WORDS.eos_token_id not in tokens
    assert WORDS.decode(tokens[1:]) == text


def test_it_is_reloaded_as_it_was(tmp_path):
    WORDS.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("Ann is – who?")["input_ids"] == WORDS("Ann is – who?")["input_ids"]
    assert again.is_fast and len(again) == len(WORDS) <= 320
    assert [tokenizer.mark(again, role) for role in ("bos", "eos", "pad")] == [0, 1, 2]


def test_a_mark_that_is_missing_is_an_error():
    bare = tokenizer.train(["a"], size=300)
    bare.eos_token = None
    with pytest.raises(InputError, match="no eos token"):
        tokenizer.mark(bare, "eos")
