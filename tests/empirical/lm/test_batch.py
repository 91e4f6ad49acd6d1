import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.facts.record import Fact
from empirical.lm import batch, capture, prompts

ROWS = [[5, 6, 7], [8], [9, 10]]


def test_rows_are_padded_on_the_right_and_the_mask_tells_tokens_from_padding():
    padded = batch.pad_right(ROWS, pad=5)
    assert padded.tokens.tolist() == [[5, 6, 7], [8, 5, 5], [9, 10, 5]]
    assert padded.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert padded.tokens.dtype == padded.mask.dtype == torch.long


def test_rows_are_padded_on_the_left_and_behind_a_prefix_that_all_have():
    assert batch.pad_left(ROWS, pad=0).tokens.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    padded = batch.pad_left(ROWS, pad=0, prefix=[1, 2])
    assert padded.tokens.tolist() == [[1, 2, 5, 6, 7], [1, 2, 0, 0, 8], [1, 2, 0, 9, 10]]
    assert padded.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 0, 1, 1]]


def test_a_tail_begins_at_its_rows_own_place_and_has_no_padding():
    assert batch.pad_right(ROWS, pad=0).tail([1, 0, 2]).tolist() == [
        [False, True, True],
        [True, False, False],
        [False, False, False],
    ]


@pytest.fixture
def encoded(words):
    answers = {"Ann": "Rome", "Bo": "x"}
    facts = [Fact(name, name, "city", f"Where is {name}?", (answer,)) for name, answer in answers.items()]
    return prompts.encode(words, [prompts.build(fact) for fact in facts])


def test_a_batch_of_questions_knows_where_prompt_spans_and_answer_stand(encoded):
    questions = batch.of_questions(encoded, pad=2)
    for row, question in enumerate(encoded):
        n_prompt, n = question.n_prompt, len(question.tokens)
        assert questions.tokens[row, :n].tolist() == list(question.tokens)
        assert questions.prompt_end[row] == n_prompt - 1
        assert questions.completion[row].nonzero()[:, 0].tolist() == list(range(n_prompt, n))
        assert questions.spans.shape[1] == len(capture.SPANS)
        assert torch.equal(questions.spans[row, :, :n_prompt], torch.as_tensor(question.spans))
        assert not questions.spans[row, :, n_prompt:].any()


def test_of_an_answer_only_so_many_tokens_are_kept_as_are_wanted(encoded):
    questions = batch.of_questions(encoded, pad=2, answer_tokens=1)
    assert questions.mask.sum(1).tolist() == [question.n_prompt + 1 for question in encoded]
    assert questions.completion.sum(1).tolist() == [1, 1]


def test_aligned_prompts_end_at_one_place_with_padding_on_both_sides(encoded):
    plain, aligned = (batch.of_questions(encoded, pad=2, aligned=where) for where in (False, True))
    assert len({question.n_prompt for question in encoded}) > 1 and len(set(aligned.prompt_end.tolist())) == 1
    for name in ("tokens", "completion"):
        for row in range(len(encoded)):
            one, other = (getattr(found, name)[row][found.mask[row].bool()] for found in (plain, aligned))
            assert torch.equal(one, other)
    for row in range(len(encoded)):
        one, other = (found.spans[row][:, found.mask[row].bool()] for found in (plain, aligned))
        assert torch.equal(one, other)
    assert (aligned.tokens[~aligned.mask.bool()] == 2).all()


@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.integers(1, 8),
    st.integers(1, 60),
)
def test_batches_hold_every_row_once_and_no_more_than_is_allowed_nor_less_than_fits(lengths, rows, tokens):
    batches = batch.in_turn(lengths, rows=rows, tokens=tokens)
    assert [row for own in batches for row in own] == list(range(len(lengths)))
    for own, following in zip(batches, [*batches[1:], ()], strict=False):
        longest = max(lengths[row] for row in own)
        assert len(own) == 1 or (len(own) <= rows and len(own) * longest <= tokens)
        if following:
            longest = max(longest, lengths[following[0]])
            assert len(own) == rows or (len(own) + 1) * longest > tokens
    sorted_batches = batch.of_like_length(lengths, rows=rows, tokens=tokens)
    found = [lengths[row] for own in sorted_batches for row in own]
    assert found == sorted(lengths, reverse=True)
