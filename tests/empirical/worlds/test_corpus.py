from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from core.facts.store import Background
from empirical.lm import prompts, tokenizer
from empirical.worlds import corpus, world
from empirical.worlds.world import Exposure, WorldConfig

TOLD = WorldConfig(
    n_subjects=12,
    n_relations=2,
    facts_per_subject=1,
    n_answers=3,
    paraphrases=3,
    exposure=Exposure(low=0.5, high=40.0),
    background=Background(size=0.5, share=0.2),
    qa_share=0.1,
    qa_facts=4,
)


@pytest.fixture(scope="module")
def made():
    return world.build(TOLD, seed=0)


@pytest.fixture(scope="module")
def own_words(made):
    return tokenizer.train(corpus.vocabulary(made), size=400)


@pytest.fixture(scope="module")
def sentences(made, own_words):
    return corpus.build(made, own_words)


def _owners(made):
    """Return the fact of each sentence."""
    return np.repeat(np.arange(len(made.exposures)), np.where(made.is_asked, 4, 3))


def test_every_fact_has_its_statements_and_one_that_is_asked_its_question_too(made):
    found = corpus.texts(made)
    assert len(set(found)) == len(found) == len(_owners(made))
    for fact in range(len(made.exposures)):
        own = [text for text, owner in zip(found, _owners(made), strict=True) if owner == fact]
        subject, answer = made.subjects[made.store.subject[fact]], made.answers[made.store.answer[fact]]
        assert all(subject in text and answer in text for text in own)
        assert [text.startswith("Question:") for text in own] == [False] * 3 + [True] * int(made.is_asked[fact])


def test_a_fact_is_drawn_as_often_as_it_is_told_its_paraphrases_equally(made, sentences):
    by_fact = np.bincount(_owners(made), weights=sentences.probability)
    np.testing.assert_allclose(by_fact, made.exposures / made.exposures.sum())
    for fact in np.flatnonzero(~made.is_asked):
        assert len(set(sentences.probability[_owners(made) == fact])) == 1


def test_half_of_an_asked_facts_draws_are_its_question(made, sentences):
    is_question = np.array([text.startswith("Question:") for text in corpus.texts(made)])
    owners = _owners(made)[is_question]
    expected = made.exposures[owners] / made.exposures.sum() / 2
    np.testing.assert_allclose(sentences.probability[is_question], expected)
    assert sentences.probability[is_question].sum() == pytest.approx(TOLD.qa_share)


def test_draws_follow_the_probabilities(sentences):
    n = 20_000
    rows = {tuple(row[:length].tolist()): i for i, (row, length) in enumerate(zip(*_parts(sentences), strict=True))}
    drawn = sentences.draw(n, np.random.default_rng(0))
    share = np.zeros(len(rows))
    for row, count in Counter(map(tuple, drawn.tolist())).items():
        share[rows[tuple(token for token in row if token != 2)]] = count / n
    expected = sentences.probability
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected / n) + 2 / n)


def _parts(sentences):
    return sentences.tokens, sentences.length


def test_a_sentence_begins_ends_and_is_padded_on_its_right(made, own_words, sentences):
    begin, end, pad = (tokenizer.special_token_id(own_words, role) for role in ("bos", "eos", "pad"))
    for text, row, length in zip(corpus.texts(made), *_parts(sentences), strict=True):
        assert row[0] == begin and row[length - 1] == end and (row[length:] == pad).all()
        assert not {begin, end, pad} & set(row[1 : length - 1].tolist())
        assert own_words.decode(row[1 : length - 1]) == text
    assert sentences.length.max() == sentences.tokens.shape[1] > sentences.length.min()


def test_a_draw_is_as_wide_as_its_longest_sentence(sentences):
    drawn = [sentences.draw(2, np.random.default_rng(seed)) for seed in range(20)]
    assert all((tokens[:, -1] != 2).any() for tokens in drawn)
    np.testing.assert_array_equal(drawn[-1], sentences.draw(2, np.random.default_rng(19)))


def test_the_question_is_that_of_finetuning_and_the_tokenizer_learns_it_of_every_fact(made):
    (first, *_) = made.fact_set().facts
    asked = prompts.build(first)
    assert corpus.question(made, 0) == asked.text + asked.completion
    assert corpus.vocabulary(made) == corpus.texts(made) + [
        corpus.question(made, i) for i in range(len(made.exposures))
    ]


def test_fewer_paraphrases_are_the_first_ones(made):
    short = replace(made, n_paraphrases=1, is_asked=np.zeros_like(made.is_asked))
    starts = np.append(0, np.flatnonzero(np.diff(_owners(made))) + 1)
    assert corpus.texts(short) == [corpus.texts(made)[i] for i in starts]
