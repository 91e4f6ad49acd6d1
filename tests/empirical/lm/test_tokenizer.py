import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from core.errors import InputError
from empirical.lm import tokenizer

WORDS = tokenizer.train(["Ann Bo is a sailor.", "Question: Who?\nAnswer: Bo"] * 9, size=320)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_between_its_begin_and_no_end(text):
    tokens = WORDS(text)["input_ids"]
    assert tokens[0] == WORDS.bos_token_id and WORDS.eos_token_id not in tokens
    assert WORDS.decode(tokens[1:]) == text


@given(st.lists(st.text(alphabet="AnBo is\n–é😀", min_size=1, max_size=9), min_size=1, max_size=4))
def test_offsets_say_which_characters_a_token_stands_for_blanks_included(parts):
    text = "".join(parts)
    found = WORDS(text, return_offsets_mapping=True)
    covered = {i for start, stop in found["offset_mapping"][1:] for i in range(start, stop)}
    assert covered == set(range(len(text))) and found["offset_mapping"][0] == (0, 0)


def test_texts_are_padded_on_the_right_with_a_mark_of_its_own():
    found = WORDS(["Ann", "Ann Bo is a sailor."], padding=True)
    short, long = found["input_ids"]
    assert len(short) == len(long) and short[-1] == WORDS.pad_token_id != WORDS.eos_token_id
    assert sum(found["attention_mask"][0]) == len(WORDS("Ann")["input_ids"])


def test_it_is_reloaded_as_it_was(tmp_path):
    WORDS.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("Ann is – who?")["input_ids"] == WORDS("Ann is – who?")["input_ids"]
    assert again.is_fast and len(again) == len(WORDS) <= 320
    assert [tokenizer.special_token_id(again, role) for role in ("bos", "eos", "pad")] == [0, 1, 2]


def test_a_mark_that_is_missing_is_an_error():
    bare = tokenizer.train(["a"], size=300)
    bare.eos_token = None
    with pytest.raises(InputError, match="no eos token"):
        tokenizer.special_token_id(bare, "eos")
