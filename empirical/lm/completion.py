"""Whether a model completes a fact's pretraining sentences: what it recalls where nothing asks in a new format."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from transformers import PreTrainedTokenizerBase

from core.facts.record import Fact
from empirical.lm import batch, generate, logits
from empirical.lm.batch import Batch
from empirical.lm.model import LanguageModel
from empirical.lm.tokenizer import special_token_id
from empirical.worlds import templates, world

BATCH_SIZE = 256


def recall(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], *, n_paraphrases: int = 8
) -> Float[np.ndarray, " fact"]:
    """Return, of the first `n_paraphrases` of each fact's relation that end with the answer, the share completed right.

    Right means greedily: every token from the answer to the end of the sentence is the most likely one, given the true
    ones before it. The answer is the first of the accepted ones, as pretraining tells no other.
    """
    texts, owner = [], []
    for row, fact in enumerate(facts):
        for before, rest in _cut(fact, n_paraphrases):
            texts.append((before, rest))
            owner.append(row)
    right = np.zeros(len(texts), dtype=bool)
    lengths = [
        len(tokens) + 1
        for tokens in tokenizer(["".join(text) for text in texts], split_special_tokens=True)["input_ids"]
    ]
    for rows in batch.of_like_length(lengths, rows=BATCH_SIZE, tokens=batch.TOKENS):
        right[rows] = _is_right(model, tokenizer, [texts[row] for row in rows])
    counts = np.bincount(owner, minlength=len(facts))
    return np.bincount(owner, weights=right, minlength=len(facts)) / counts


def answers(
    model: LanguageModel, facts: Sequence[Fact], *, n_paraphrases: int = 8, max_new_tokens: int = 16
) -> list[str]:
    """Return how the model completes a sentence about each fact: the first of those that `recall` has.

    The stop of the sentence is no part of the answer.
    """
    texts = [_cut(fact, n_paraphrases)[0] for fact in facts]
    options: Any = {"return_offsets_mapping": True, "split_special_tokens": True}
    joint = model.tokenizer(["".join(text) for text in texts], **options)
    first = _first_of_answer(texts, joint["offset_mapping"])
    prompts = [tokens[:place] for tokens, place in zip(joint["input_ids"], first, strict=True)]
    stop = generate.stop_ids(model.tokenizer)
    said = generate.greedy(model.network, prompts, stop=stop, pad=model.pad, max_new_tokens=max_new_tokens)
    return [text.strip().removesuffix(".").strip() for text in generate.decode(model.tokenizer, said)]


def _cut(fact: Fact, n_paraphrases: int) -> list[tuple[str, str]]:
    """Return the fact's paraphrases that end with the answer, cut before it; all of them where none does."""
    slots = {"subject": fact.subject, "answer": fact.answers[0]}
    paraphrases = templates.for_relation(fact.relation).paraphrases[:n_paraphrases]
    ending = [text for text in paraphrases if len(text.split("{answer}")[1]) <= 1]
    return [world.split_at_answer(text, slots) for text in ending or paraphrases]


def _is_right(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]
) -> Bool[np.ndarray, " text"]:
    """Return whether every token from the answer on is the most likely one."""
    whole = [before + rest for before, rest in texts]
    joint = tokenizer(whole, return_offsets_mapping=True, split_special_tokens=True)
    end, pad = special_token_id(tokenizer, "eos"), special_token_id(tokenizer, "pad")
    padded = batch.pad_right([[*tokens, end] for tokens in joint["input_ids"]], pad)
    return most_likely(model, padded, padded.tail(_first_of_answer(texts, joint["offset_mapping"])))


def _first_of_answer(texts: Sequence[tuple[str, str]], offsets: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    """Return the place of each answer's first token, by the tokens' ends in the text."""
    pairs = zip(texts, offsets, strict=True)
    return [next(i for i, (_, stop) in enumerate(own) if stop > len(before)) for (before, _), own in pairs]


@torch.no_grad()
def most_likely(
    model: torch.nn.Module, rows: Batch, scored: Bool[torch.Tensor, "row token"]
) -> Bool[np.ndarray, " row"]:
    """Return whether each of a row's scored tokens is the most likely one, given the true ones before it."""
    model.eval()
    device = next(model.parameters()).device
    wanted, next_tokens = scored[:, 1:], rows.tokens[:, 1:]
    with logits.only(model, wanted):
        best = model(input_ids=rows.tokens[:, :-1].to(device), use_cache=False).logits[0].argmax(-1).cpu()
    is_right = torch.ones_like(wanted)
    is_right[wanted] = best == next_tokens[wanted]
    return is_right.all(1).numpy()
