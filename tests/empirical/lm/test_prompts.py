import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from core.errors import InputError
from core.facts.record import Fact
from empirical.lm import prompts, tokenizer

FACT = Fact("0", "Jane Doe", "occupation", "What is Jane Doe's occupation?", ("sea pilot", "pilot"))


def test_a_prompt_is_question_and_answer_with_the_blank_on_the_answers_side():
    made = prompts.build(FACT)
    assert made.text == "Question: What is Jane Doe's occupation?\nAnswer:"
    assert made.completion == " sea pilot"
    assert made.text[slice(*made.question)] == FACT.question
    assert made.subject is not None and made.text[slice(*made.subject)] == "Jane Doe"


def test_examples_stand_before_it_answered_and_move_question_and_subject_along():
    shots = [Fact("1", "Bo Ek", "birthplace", "Where was Bo Ek born?", ("Riga",))] * 2
    made, before = prompts.build(FACT, shots), "Question: Where was Bo Ek born?\nAnswer: Riga\n\n" * 2
    assert made.text == before + prompts.build(FACT).text and made.completion == " sea pilot"
    assert made.text[slice(*made.question)] == FACT.question
    assert made.subject is not None and made.text[slice(*made.subject)] == "Jane Doe"


def test_the_subject_is_found_whatever_its_case_and_as_a_whole_word_first():
    assert prompts.find_subject(Fact("0", "art", "r", "Is Bart art?", ("a",))) == (8, 11)
    assert prompts.find_subject(Fact("0", "ART", "r", "Is Bart here?", ("a",))) == (4, 7)
    assert prompts.find_subject(Fact("0", "Kim", "r", "Who is it?", ("a",))) is None
    assert prompts.find_subject(Fact("0", "", "r", "Who is it?", ("a",))) is None
    assert prompts.find_subject(Fact("0", "A. (B)", "r", "Who made A. (B)?", ("a",))) == (9, 15)


def test_multiple_choice_is_asked_in_the_hendrycks_format():
    fact = Fact("0", "", "world_history", "When?", ("C",), None, ("1", "2", "3", "4"))
    assert prompts.build(fact).text == (
        "The following are multiple choice questions (with answers) about world history.\n\n"
        "When?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert prompts.build(fact).completion == " C"


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_the_completion_is_the_answers_tokens_and_the_end(kind, request):
    words = request.getfixturevalue(kind)
    one = prompts.encode(words, [prompts.build(FACT)])[0]
    assert one.tokens[-1] == words.eos_token_id
    assert words.decode(one.completion[:-1]).strip() == "sea pilot"
    assert words.decode(one.prompt, skip_special_tokens=True).strip() == prompts.build(FACT).text
    assert list(one.prompt) == words(prompts.build(FACT).text)["input_ids"]


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_a_text_has_one_beginning_and_one_end_also_after_examples(kind, request):
    words = request.getfixturevalue(kind)
    for shots in ((), (FACT, FACT)):
        (one,) = prompts.encode(words, [prompts.build(FACT, shots)])
        assert one.tokens[0] == words.bos_token_id and one.tokens.count(words.bos_token_id) == 1
        assert one.tokens[-1] == words.eos_token_id and one.tokens.count(words.eos_token_id) == 1


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_the_spans_part_the_prompt_as_a_hand_made_table_says(kind, request):
    words = request.getfixturevalue(kind)
    one = prompts.encode(words, [prompts.build(FACT)])[0]
    np.testing.assert_array_equal(one.spans.sum(axis=0), 1)
    subject, relation, template, sink = (
        "".join(words.convert_ids_to_tokens(np.array(one.prompt)[mask].tolist())) for mask in one.spans
    )
    blank = {"byte_level": "Ġ", "sentence_piece": "▁"}[kind]
    assert subject.replace(blank, " ") == " Jane Doe"
    assert relation.replace(blank, " ") == " What is's occupation?"
    assert sink == "<s>"
    assert template.replace(blank, "").replace("Ċ", "\n").replace("<0x0A>", "\n") == "Question:\nAnswer:"
    assert one.has_subject


def test_a_question_that_does_not_name_its_subject_has_an_empty_span(byte_level):
    one = prompts.encode(byte_level, [prompts.build(Fact("0", "Kim", "r", "Who is it?", ("a",)))])[0]
    assert not one.has_subject and not one.spans[0].any()


def test_a_tokenizer_that_is_not_fast_or_has_no_end_is_refused(byte_level):
    class Slow(PreTrainedTokenizerFast):
        @property
        def is_fast(self):
            return False

    slow = Slow(tokenizer_object=byte_level.backend_tokenizer, name_or_path="old", eos_token=tokenizer.END)
    with pytest.raises(InputError, match="old is not fast"):
        prompts.check(slow)
    endless = PreTrainedTokenizerFast(tokenizer_object=byte_level.backend_tokenizer)
    with pytest.raises(InputError, match="no eos token"):
        prompts.check(endless)


def test_a_tokenizer_that_merges_prompt_and_answer_is_refused():
    made = Tokenizer(
        models.BPE(vocab={"a": 0, ":": 1, " ": 2, ": ": 3, ": a": 4, "</s>": 5}, merges=[(":", " "), (": ", "a")])
    )
    words = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    with pytest.raises(InputError, match="does not separate prompt and answer"):
        prompts.encode(words, [prompts.Prompt("a:", " a", (0, 1), None)])


@given(st.text(min_size=1, max_size=30).filter(str.strip), st.text(min_size=1, max_size=12).filter(str.strip))
def test_any_question_and_answer_come_back_whole(byte_level, question, answer):
    prompt = prompts.build(Fact("0", "", "r", question, (answer,)))
    one = prompts.encode(byte_level, [prompt])[0]
    assert byte_level.decode(list(one.tokens[1:-1])) == prompt.text + prompt.completion


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_the_name_of_a_control_token_in_a_fact_is_text(kind, request):
    words = request.getfixturevalue(kind)
    fact = Fact("0", "<s> Ek", "r", "Where was <s> Ek born?", ("Ri</s>ga",))
    one = prompts.encode(words, [prompts.build(fact)])[0]
    assert [one.tokens.count(token) for token in (words.bos_token_id, words.eos_token_id)] == [1, 1]
    assert one.tokens[0] == words.bos_token_id and one.tokens[-1] == words.eos_token_id
    assert words.decode(list(one.completion[:-1])).strip() == "Ri</s>ga"
    subject = words.decode(list(np.array(one.prompt)[one.spans[0]]))
    assert subject.replace(" ", "") == "<s>Ek"
    words("</s>")  # whoever tokenises after it has control tokens again
    assert words("</s>")["input_ids"][-1] == words.eos_token_id
