"""Three kinds of chat templates, as they are published, on small tokenizers."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core import config_json
from core.errors import InputError
from core.facts.record import Fact
from empirical import evaluate, finetune
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import files, formats, generate, model, multiple_choice, prompts
from empirical.lm.formats import Format
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.train import TrainConfig

FACT = Fact("0", "Jane Doe", "occupation", "What is Jane Doe's occupation?", ("sea pilot", "pilot"))
BORN = Fact("1", "Bo Ek", "birthplace", "Where was Bo Ek born?", ("Riga",))
CHOICE = Fact("2", "", "world_history", "When?", ("C",), None, ("1", "2", "3", "4"))

CHATML = """{% for m in messages %}
{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA = """{% for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{%- if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}
{%- else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% for m in messages %}
{%- if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

KINDS = {
    # tokenizer, template, special tokens of its own, what ends a turn
    "chatml": ("byte_level", CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama": ("sentence_piece", LLAMA, (), "</s>"),
    "gemma": ("sentence_piece", GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
}
ASKED = {
    "chatml": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "llama": "<s>[INST] {} [/INST]",
    "gemma": "<s><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
}


def with_template(words, template, added=()):
    """Return a copy of the tokenizer with a chat template and special tokens of its own."""
    words = copy.deepcopy(words)
    words.add_tokens(list(added), special_tokens=True)
    words.chat_template = template
    return files.with_pad(words)


def turns(*texts):
    """Return a conversation that the user begins."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def rendered(words, *texts):
    """Return the tokens of a conversation, up to the assistant's answer where the user spoke last."""
    options = {"tokenize": True, "return_dict": False, "add_generation_prompt": len(texts) % 2 == 1}
    return words.apply_chat_template(turns(*texts), **options)


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def words(kind, request):
    """Return a chat model's tokenizer of each kind."""
    name, template, added, _ = KINDS[kind]
    return with_template(request.getfixturevalue(name), template, added)


@pytest.fixture
def chat(words):
    return formats.chat(words)


@pytest.fixture
def net(words):
    """Return a small Llama of random weights for this tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes, **ends)).eval()


def test_the_question_is_the_users_turn_and_the_answer_follows_where_the_assistant_speaks(chat, kind):
    made = chat.build(FACT)
    assert made.text == ASKED[kind].format(FACT.question)
    assert made.completion == {"llama": " sea pilot"}.get(kind, "sea pilot")
    assert made.text[slice(*made.question)] == FACT.question
    assert made.subject is not None and made.text[slice(*made.subject)] == "Jane Doe"


def test_generation_starts_from_the_templates_own_tokens_and_training_goes_on_from_these(chat, words, kind):
    one = chat.ask([FACT])[0]
    assert list(one.prompt) == rendered(words, FACT.question)
    whole, n = rendered(words, FACT.question, "sea pilot"), len(one.tokens) - 1
    assert list(one.tokens[:n]) == whole[:n]
    # Llama-2's template has a blank between the answer and the end, which belongs to neither.
    assert words.decode(whole[n : whole.index(one.tokens[-1], n)]).strip() == ""
    assert words.convert_ids_to_tokens(one.tokens[-1]) == KINDS[kind][3]
    assert one.completion == one.tokens[one.n_prompt :] and words.decode(one.completion[:-1]).strip() == "sea pilot"


def test_subject_and_relation_are_the_tokens_of_the_users_words(chat, words, kind):
    one = chat.ask([FACT])[0]
    np.testing.assert_array_equal(one.spans.sum(axis=0), 1)
    subject, relation, _, sink = (
        "".join(words.convert_ids_to_tokens(np.array(one.prompt)[mask].tolist())) for mask in one.spans
    )
    assert one.has_subject and subject.translate({ord("Ġ"): " ", ord("▁"): " "}).strip() == "Jane Doe"
    assert relation.translate({ord("Ġ"): " ", ord("▁"): " "}).strip() == "What is's occupation?"
    assert sink == {"chatml": "<|im_start|>"}.get(kind, "<s>")


@pytest.mark.parametrize("name", ["user", "assistant", "model", "INST"])
def test_a_subject_that_the_template_names_too_is_found_in_the_question(chat, name):
    made = chat.build(Fact("0", name, "r", f"Who is {name}", ("a",)), [BORN])
    assert made.subject is not None and made.text[slice(*made.subject)] == name
    assert made.subject[1] == made.question[1] and made.text[slice(*made.question)] == f"Who is {name}"


def test_blanks_around_a_question_are_nowhere_asked(chat):
    blank = Fact("0", "Jane Doe", "occupation", f"\n {FACT.question}  ", FACT.answers)
    assert chat.build(blank) == chat.build(FACT)


def test_examples_are_earlier_turns(chat, words):
    made = chat.build(FACT, [BORN, BORN])
    one = chat.encode([made])[0]
    assert list(one.prompt) == rendered(words, *(BORN.question, "Riga") * 2, FACT.question)
    assert made.text[slice(*made.question)] == FACT.question and one.completion == chat.ask([FACT])[0].completion
    assert made.text[: made.question[0]] == chat.build(BORN, [BORN, BORN]).text[: made.question[0]]


def test_multiple_choice_is_hendryckss_text_in_each_turn_and_a_letter_in_the_other(chat, words):
    text = prompts.build(CHOICE).text
    assert list(chat.ask([CHOICE])[0].prompt) == rendered(words, text)
    made = chat.build(CHOICE, [CHOICE])
    assert list(chat.encode([made])[0].prompt) == rendered(words, text, "C", text)
    assert made.text[slice(*made.question)] == prompts.choices(CHOICE) and made.subject is None


def test_a_letters_tokens_are_those_after_a_whole_prompt(chat):
    made = chat.build(CHOICE)
    whole = [prompts.Prompt(made.text, chat.gap + letter, made.question, None) for letter in "ABCD"]
    assert multiple_choice.tokens(chat) == tuple(one.completion[:-1] for one in chat.encode(whole))


def test_letters_are_scored_after_turns_as_in_full_passes(chat, net, words):
    facts, shots = [CHOICE, CHOICE], [[CHOICE], []]
    found = multiple_choice.answer(LanguageModel(net, words, "made", is_chat=True), facts, shots)
    letters = multiple_choice.tokens(chat)
    for row, own in zip(found, shots, strict=True):
        text = chat.encode([chat.build(CHOICE, own)])[0].prompt
        expected = []
        for letter in letters:
            with torch.no_grad():
                after = net(torch.tensor([[*text, *letter]])).logits[0].log_softmax(-1)
            expected.append(sum(float(after[len(text) - 1 + i, token]) for i, token in enumerate(letter)))
        np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma"])  # the turn ends with another token than a text
def test_a_finetuned_model_answers_in_its_turn_and_ends_it(chat, net, words, tmp_path):
    facts, base = [FACT, BORN], LanguageModel(net, words, "made", is_chat=True)
    config = FinetuneConfig(train=TrainConfig(epochs=40, batch_size=2, n_records=1))
    options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path, "evaluate": lambda network: {}}
    tuned, _ = finetune.run(config, base, base.format.ask(facts), **options)
    tuned.network.eval()
    found = evaluate.answer(EvaluateConfig(max_new_tokens=30), tuned, facts, tuned.format.ask(facts))
    assert tuned.is_chat and found.predicted == ["sea pilot", "Riga"] and found.logprob.min() > -1
    stop = {"stop": tuned.format.stop, "pad": tuned.pad, "max_new_tokens": 30}
    said = generate.greedy(tuned.network, [chat.ask([FACT])[0].prompt], **stop)
    assert said == [list(chat.ask([FACT])[0].completion[:-1])]


def test_the_end_of_the_turn_is_a_stop_beside_those_of_plain_text(chat, words, kind):
    assert chat.stop == generate.stop_ids(words) | {words.convert_tokens_to_ids(KINDS[kind][3])}


def test_blanks_that_a_template_puts_before_an_answer_are_the_answers(byte_level):
    words = with_template(
        byte_level, "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}assistant: "
    )
    chat = formats.chat(words)
    made = chat.build(BORN)
    assert made.text == "user: Where was Bo Ek born?</s>assistant:" and made.completion == " Riga"
    assert chat.ask([BORN])[0].tokens == (*words(made.text + " Riga</s>", add_special_tokens=False)["input_ids"],)


def test_what_a_template_puts_before_an_answer_alone_is_the_prompts(byte_level):
    """Of a template that has no generation prompt."""
    words = with_template(
        byte_level, "{% for m in messages %}{{ '# ' + m.role + '\n' + m.content + eos_token + '\n' }}{% endfor %}"
    )
    made = formats.chat(words).build(BORN, [BORN])
    said = "# user\nWhere was Bo Ek born?</s>\n# assistant\n"
    assert made.text == f"{said}Riga</s>\n{said}" and made.completion == "Riga"


def test_a_model_that_thinks_is_asked_not_to_and_every_day_is_the_same(byte_level):
    told = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n"
    closed = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    chat = formats.chat(with_template(byte_level, told + LLAMA + closed))
    assert chat.build(BORN).text == "26 Jul 2024\n<s>[INST] Where was Bo Ek born? [/INST]<think></think>"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no users here') }}", r"does not take the turns .* \(no users here\)"),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
            "no",
        ),
        ("{% for m in messages %}", "does not take the turns"),
        ("{{ messages | length }}{{ eos_token }}", "does not give question and answer once each"),
        ("{% for m in messages %}{{ m.content + m.content + eos_token }}{% endfor %}", "once each"),
        (
            "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}",
            r"ends an answer with no special token, but '\\n'",
        ),
        ("{% for m in messages %}{{ m.content + ' END' + eos_token }}{% endfor %}", "no special token, but ' END"),
    ],
)
def test_a_template_that_will_not_do_is_refused_with_flag_and_remedy(byte_level, template, told):
    with pytest.raises(InputError, match=told) as refused:
        formats.chat(with_template(byte_level, template))
    lines = str(refused.value).splitlines()
    assert len(lines) == 2 and lines[0].startswith("--model.chat: the ") and "eave the flag" in lines[1]


@pytest.mark.parametrize("change", ["upper()", "replace('Doe', 'D.')", "replace('?', '?\n')"])
def test_a_template_that_changes_a_question_is_refused(byte_level, change):
    chat = formats.chat(
        with_template(byte_level, f"{{% for m in messages %}}{{{{ m.content.{change} + eos_token }}}}{{% endfor %}}")
    )
    with pytest.raises(InputError, match="does not leave a question as it is: .What is Jane Doe") as refused:
        chat.build(FACT)
    assert "--model.chat" in str(refused.value)


def test_plain_text_is_what_it_was(byte_level, net):
    plain = LanguageModel(net, byte_level, "made").format
    assert type(plain) is Format and plain.build(FACT) == prompts.build(FACT)
    one, same = plain.ask([FACT])[0], prompts.encode(byte_level, [prompts.build(FACT)])[0]
    assert one.tokens == same.tokens and one.tokens[-1] == byte_level.eos_token_id
    assert one.n_prompt == same.n_prompt and np.array_equal(one.spans, same.spans)
    assert plain.stop == generate.stop_ids(byte_level)
    assert (
        "chat" not in config_json.plain(ModelConfig("some/model")) and config_json.plain(ModelConfig(chat=True))["chat"]
    )


def test_a_model_is_loaded_as_a_chat_model_if_asked_and_so_is_an_adapter_on_it(net, words, tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save(LanguageModel(net, files.with_pad(words), "made"), base)
    plain, chat = (model.load(ModelConfig(str(base), chat=chat)) for chat in (False, True))
    assert type(plain.format) is Format and not plain.is_chat and chat.is_chat
    assert chat.format.build(FACT) == formats.chat(words).build(FACT)
    assert model.measured(chat).is_chat
    tuned = finetune.with_adapter(Lora(rank=2), chat.network, chat.name)
    model.save(LanguageModel(tuned, words, "made"), adapter)
    found = [model.load(ModelConfig(str(adapter), chat=chat)) for chat in (False, True)]
    assert [one.is_chat for one in found] == [False, True] and found[1].name == str(adapter)


def test_a_model_without_a_template_is_refused_before_its_weights_are_read(net, byte_level, tmp_path, monkeypatch):
    model.save(LanguageModel(net, byte_level, "made"), tmp_path / "base")
    monkeypatch.setattr(model.AutoModelForCausalLM, "from_pretrained", lambda *given, **more: pytest.fail("read"))
    with pytest.raises(InputError, match="--model.chat: .*base has no chat template"):
        model.load(ModelConfig(str(tmp_path / "base"), chat=True))


@pytest.mark.parametrize("where", ["question", "answer", "example", "choice"])
def test_a_fact_that_names_a_control_token_is_refused(where, request):
    name, template, added, _ = KINDS["chatml"]
    form = formats.chat(with_template(request.getfixturevalue(name), template, added))
    spoilt = {
        "question": replace(FACT, question="Who is Jane Doe?<|im_end|>"),
        "answer": replace(FACT, answers=("</s>",)),
        "example": replace(FACT, id="9", answers=("a<|im_start|>",)),
        "choice": replace(CHOICE, choices=("1", "2", "<|im_end|>", "4")),
    }[where]
    with pytest.raises(InputError, match=rf"--model.chat: fact {spoilt.id} .*control token(.|\n)*leave the flag"):
        form.build(FACT, [spoilt]) if where == "example" else form.build(spoilt)
