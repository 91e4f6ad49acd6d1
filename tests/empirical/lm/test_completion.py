import pytest
import torch

from core.facts.record import Fact
from empirical.lm import completion, generate, tokenizer
from empirical.lm.model import LanguageModel
from empirical.worlds import templates

FACTS = [
    Fact(str(i), f"Ann{i}", "occupation", f"Who is Ann{i}?", (answer,)) for i, answer in enumerate(["cook", "sailor"])
]
LAST = [one for one in templates.for_relation("occupation").paraphrases if one.endswith(("{answer}", "{answer}."))]


class Oracle(torch.nn.Module):
    """Knows which token comes next in the sentences that it was given, and says 0 to all else."""

    def __init__(self, rows, size):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.next = {tuple(row[: i + 1]): token for row in rows for i, token in enumerate(row[1:])}
        self.size = size
        self.head = torch.nn.Identity()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache):
        logits = torch.zeros((*input_ids.shape, self.size))
        for i, row in enumerate(input_ids.tolist()):
            for j in range(len(row)):
                logits[i, j, self.next.get(tuple(row[: j + 1]), 0)] = 1
        return type("Output", (), {"logits": self.head(logits)})()


def test_recall_is_the_share_of_sentences_that_are_completed_right_to_their_end(monkeypatch):
    told = [one.format(subject="Ann0", answer="cook") for one in LAST[:3]]  # nothing of Ann1
    words = tokenizer.train(told + ["Ann1 sailor"], size=320)
    rows = [[*words(text)["input_ids"], words.eos_token_id] for text in told]
    found = completion.recall(Oracle(rows, len(words)), words, FACTS)
    assert found[0] == 3 / len(LAST) and found[1] == 0
    for batch_size in (1, 2):  # padded differently
        monkeypatch.setattr(completion, "BATCH_SIZE", batch_size)
        assert completion.recall(Oracle(rows, len(words)), words, FACTS).tolist() == found.tolist()
    assert completion.recall(Oracle(rows, len(words)), words, FACTS, n_paraphrases=2).tolist() == [1, 0]
    half = [row[:-1] for row in rows]  # the sentence is known, its end is not
    assert completion.recall(Oracle(half, len(words)), words, FACTS)[0] == 0


def test_before_the_answer_nothing_is_scored():
    told = LAST[0].format(subject="Ann0", answer="cook")
    words = tokenizer.train([told], size=320)
    row = [*words(told)["input_ids"], words.eos_token_id]
    oracle = Oracle([row], len(words))
    n_before = len(words(told.partition(" cook")[0])["input_ids"])
    oracle.next = {known: token for known, token in oracle.next.items() if len(known) >= n_before}
    assert completion.recall(oracle, words, FACTS[:1], n_paraphrases=1) == 1
    del oracle.next[tuple(row[:n_before])]
    assert completion.recall(oracle, words, FACTS[:1], n_paraphrases=1) == 0


@pytest.mark.parametrize("relation", [*templates.PHRASINGS, "of no phrasing of its own"])
def test_every_relation_can_be_probed_whatever_the_number_of_statements(relation):
    told = [one.format(subject="Ann0", answer="cook") for one in templates.for_relation(relation).paraphrases]
    words = tokenizer.train(told, size=320)
    rows = [[*words(text)["input_ids"], words.eos_token_id] for text in told]
    fact = Fact("0", "Ann0", relation, "?", ("cook",))
    for n in (1, 2, 8):
        assert completion.recall(Oracle(rows, len(words)), words, [fact], n_paraphrases=n) == 1


def test_an_answer_is_what_the_model_puts_at_the_end_of_the_first_sentence(llama, monkeypatch):
    sentences = [LAST[0].format(subject=fact.subject, answer=fact.answers[0]) for fact in FACTS]
    words, read = tokenizer.train(sentences, size=320), []

    def greedy(model, prompts, **settings):
        read.extend(words.batch_decode(prompts))
        assert settings["max_new_tokens"] == 5 and words.eos_token_id in settings["stop"]
        return [words(text, add_special_tokens=False)["input_ids"] for text in (" a  pilot.", " ")]

    monkeypatch.setattr(generate, "greedy", greedy)
    assert completion.answers(LanguageModel(llama, words, "made"), FACTS, max_new_tokens=5) == ["a  pilot", ""]
    before = LAST[0].partition("{answer}")[0].rstrip()
    assert [text.removeprefix(words.bos_token or "").lstrip() for text in read] == [
        before.format(subject=fact.subject) for fact in FACTS
    ]
