import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.errors import InputError
from core.facts.record import Fact
from empirical.lm import multiple_choice, prompts, tokenizer
from empirical.lm.formats import Format
from empirical.lm.model import LanguageModel

MMLU = Path(__file__).resolve().parents[4] / "shared" / "data" / "mmlu"


def ask(number, relation="high_school_law", letter="B"):
    choices = tuple(f"{number} {name}" for name in ("dogs", "cats", "cows", "hens"))
    return Fact(f"{relation}-{number}", "", relation, f"Which of them is number {number}?", (letter,), None, choices)


@pytest.fixture(scope="module")
def words():
    return tokenizer.train([f"{prompts.choices(ask(n, letter=n))}\nAnswer: {n}\n\n" for n in "ABCD"] * 9, size=500)


@pytest.fixture(scope="module")
def model(words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def full_logprobs(model, words, text):
    """Return the log-probabilities of " A" to " D" after a text, each from a pass over the whole joint text."""
    ids = [words(text + " " + letter)["input_ids"] for letter in "ABCD"]
    return [float(model(torch.tensor([row[:-1]])).logits[0, -1].double().log_softmax(-1)[row[-1]]) for row in ids]


def test_the_prompt_is_hendrycks_s_character_by_character():
    assert prompts.multiple_choice(ask(2), [ask(1)]).text == (
        "The following are multiple choice questions (with answers) about high school law.\n\n"
        "Which of them is number 1?\nA. 1 dogs\nB. 1 cats\nC. 1 cows\nD. 1 hens\nAnswer: B\n\n"
        "Which of them is number 2?\nA. 2 dogs\nB. 2 cats\nC. 2 cows\nD. 2 hens\nAnswer:"
    )


def test_without_examples_it_is_the_prompt_of_finetuning():
    assert prompts.multiple_choice(ask(3)).text == prompts.build(ask(3)).text


def test_a_letter_s_token_is_that_of_the_joint_text(words):
    joint = [words("Answer: " + letter)["input_ids"] for letter in "ABCD"]
    assert multiple_choice.tokens(Format(words)) == tuple((row[-1],) for row in joint)
    assert [words.decode(list(letter)) for letter in multiple_choice.tokens(Format(words))] == [" A", " B", " C", " D"]


def test_a_letter_s_token_brings_its_blank_along_in_a_tokenizer_of_sentencepiece_s_kind():
    """As Llama-2's: blanks are a letter before the word, whatever is not known falls apart into bytes."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁Answer:ABCD"]
    pieces = dict.fromkeys([*names, "▁A", "▁B", "▁C", "▁D", "An", "Ans"])
    merges = [("▁", letter) for letter in "BCD"] + [("A", "n"), ("An", "s"), ("▁", "A")]
    plain = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, byte_fallback=True))
    plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found = multiple_choice.tokens(Format(PreTrainedTokenizerFast(tokenizer_object=plain)))
    assert found == tuple((plain.token_to_id("▁" + letter),) for letter in "ABCD")


@pytest.mark.parametrize("missing", ["no letters", "blank and colon"])
def test_a_tokenizer_without_a_token_for_each_letter_is_refused(missing):
    if missing == "blank and colon":  # one token begins inside "Answer:"
        vocabulary = {name: i for i, name in enumerate(["<unk>", "Answer", ": A", ": B", ": C", ": D"])}
        pattern = ": [A-D]"
    else:
        vocabulary = {name: i for i, name in enumerate(["<unk>", "Answer:", " "])}
        pattern = "Answer:| "
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    with pytest.raises(InputError, match="another tokenizer"):
        multiple_choice.tokens(Format(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")))


def test_letters_of_several_tokens_are_scored_by_all_of_them(model):
    plain = tokenizer.train(["A: A A A A A"] * 9, size=262)  # " A" is one token, " B" is two
    following = multiple_choice.tokens(Format(plain))
    assert [len(letter) for letter in following] == [1, 2, 2, 2]
    text = plain("Which?\nAnswer:")["input_ids"]
    expected = []
    for letter in following:
        with torch.no_grad():
            logprobs = model(torch.tensor([[*text, *letter]])).logits[0].log_softmax(-1)
        expected.append(sum(float(logprobs[len(text) - 1 + i, token]) for i, token in enumerate(letter)))
    found = multiple_choice.choose(model, [text, text], following, pad=0)
    np.testing.assert_allclose(found, [expected] * 2, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_log_probabilities_are_those_of_a_full_pass_whatever_the_examples_and_the_batch(model, words, batch_size):
    facts = [ask(n, relation) for n in range(5) for relation in ("law", "world_history")]
    shots = [[ask(7, fact.relation)] * (n % 3) for n, fact in enumerate(facts)]
    found = multiple_choice.answer(LanguageModel(model, words, "made"), facts, shots, batch_size=batch_size)
    with torch.no_grad():
        expected = [
            full_logprobs(model, words, prompts.multiple_choice(*pair).text) for pair in zip(facts, shots, strict=True)
        ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(found, axis=1).min() > 0.01


def test_questions_with_the_same_examples_are_read_together(model, words, monkeypatch):
    calls = []
    choose = multiple_choice.choose
    monkeypatch.setattr(
        multiple_choice, "choose", lambda *given, **more: calls.append(len(given[1])) or choose(*given, **more)
    )
    facts = [ask(n, relation) for relation in ("law", "world_history") for n in range(3)]
    multiple_choice.answer(LanguageModel(model, words, "made"), facts, [[ask(7)]] * 3 + [[ask(8)]] * 2 + [[ask(7)]])
    assert calls == [3, 2, 1]


def test_the_margin_is_the_right_letter_s_lead_over_the_best_other():
    logprobs = np.log(np.array([[0.1, 0.4, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]))
    facts = [ask(1, letter="B"), ask(2, letter="D"), ask(3, letter="A")]
    np.testing.assert_allclose(multiple_choice.margin(logprobs, facts), [np.log(4 / 3), np.log(1 / 2), 0], atol=1e-12)


def test_no_questions_have_no_letters(model, words):
    assert multiple_choice.answer(LanguageModel(model, words, "made"), [], []).shape == (0, 4)
    assert multiple_choice.choose(model, [], multiple_choice.tokens(Format(words)), pad=0).shape == (0, 4)


@pytest.mark.skipif(not MMLU.exists(), reason="MMLU is not in ../shared/data")
def test_the_examples_of_mmlu_are_a_common_beginning_of_a_subject_s_prompts(words):
    relation = "world_religions"
    facts = {}
    for part in ("dev", "test"):
        (path,) = (MMLU / part).rglob(f"{relation}_{part}.csv")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        facts[part] = [Fact(str(i), "", relation, r[0], (r[5],), None, tuple(r[1:5])) for i, r in enumerate(rows)]
    assert len(facts["dev"]) == 5
    texts = [prompts.multiple_choice(fact, facts["dev"]).text for fact in facts["test"]]
    first = prompts.multiple_choice(facts["test"][0], facts["dev"])
    before = first.text[: first.question[0]]
    assert all(text.startswith(before) and text.count("\nAnswer:") == 6 for text in texts)
    n_shared = len(words(before)["input_ids"]) - 1  # the last token may differ: it may merge with what follows
    assert len({tuple(words(text)["input_ids"][:n_shared]) for text in texts}) == 1


def test_the_name_of_a_control_token_before_a_letter_is_text(words):
    found = multiple_choice.tokens(Format(words, before="</s>Answer:"))
    assert found == multiple_choice.tokens(Format(words))
    shown = multiple_choice._after(Format(words, before="Answer:", gap=" </s>"), "A")
    assert words.eos_token_id not in shown and words.decode(list(shown)) == " </s>A"
