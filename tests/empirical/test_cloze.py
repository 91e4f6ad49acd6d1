import torch

from empirical import cloze, tokenizer
from empirical.facts import templates
from empirical.facts.record import Fact

FACTS = [
    Fact(str(i), f"Ann{i}", "occupation", f"Who is Ann{i}?", (answer,)) for i, answer in enumerate(["cook", "sailor"])
]
LAST = [one for one in templates.for_relation("occupation").statements if one.endswith(("{answer}", "{answer}."))]


class Oracle(torch.nn.Module):
    """Knows which token comes next in the sentences that it was given, and says 0 to all else."""

    def __init__(self, rows, size):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.next = {tuple(row[: i + 1]): token for row in rows for i, token in enumerate(row[1:])}
        self.size = size

    def forward(self, tokens):
        logits = torch.zeros((*tokens.shape, self.size))
        for i, row in enumerate(tokens.tolist()):
            for j in range(len(row)):
                logits[i, j, self.next.get(tuple(row[: j + 1]), 0)] = 1
        return type("Output", (), {"logits": logits})()


def test_recall_is_the_share_of_sentences_that_are_completed_right_to_their_end():
    told = [one.format(subject="Ann0", answer="cook") for one in LAST[:3]]  # nothing of Ann1
    words = tokenizer.train(told + ["Ann1 sailor"], size=320)
    rows = [[*words(text)["input_ids"], words.eos_token_id] for text in told]
    found = cloze.recall(Oracle(rows, len(words)), words, FACTS)
    assert found[0] == 3 / len(LAST) and found[1] == 0
    half = [row[:-1] for row in rows]  # the sentence is known, its end is not
    assert cloze.recall(Oracle(half, len(words)), words, FACTS)[0] == 0
