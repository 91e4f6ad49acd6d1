"""Prompts read once, all but their last tokens: answers, attention and knockout go on from there, each by itself."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch.nn import functional
from transformers import DynamicCache

from empirical import processes
from empirical.lm import batch, logits, memory, shape
from empirical.lm.batch import QuestionBatch
from empirical.lm.prompts import Encoded
from empirical.lm.shape import Model
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, uncounted

AT_ONCE = 64
"""Prompts of like length that are read at once, whatever a batch has: many rows are worth it for the answers' few
tokens, one after another, while prompts of many lengths would be read with much padding."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Questions whose prompts a model has read; what is asked of it leaves it as it is."""

    encoded: Sequence[Encoded]
    questions: QuestionBatch
    """With their answers; all prompts end at one place."""
    cache: DynamicCache | None
    """Keys and values of all that stands before the prompts' last tokens; None: to be read again each time."""

    @property
    def prompts(self) -> batch.Batch:
        """The prompts alone."""
        stop = int(self.questions.prompt_end[0]) + 1
        return batch.Batch(self.questions.tokens[:, :stop], self.questions.mask[:, :stop])


@torch.no_grad()
def read(model: Model, encoded: Sequence[Encoded], pad: int) -> Reading:
    """Return the questions, read up to the last token of their prompts.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode: call eval() first")
    questions = batch.of_questions(encoded, pad, aligned=True)
    n_read = int(questions.prompt_end[0])
    window = shape.window(model)
    is_forgotten = window and questions.tokens.shape[1] > window  # a cache forgets what is out of the window
    if not n_read or is_forgotten or shape.keeps_states(model):
        return Reading(encoded, questions, None)
    tokens, mask = questions.tokens[:, :n_read].to(model.device), questions.mask[:, :n_read].to(model.device)
    return Reading(encoded, questions, _cache(model, tokens, mask))


def each(
    model: Model,
    encoded: Sequence[Encoded],
    pad: int,
    measure: Callable[[Reading], dict[str, np.ndarray]],
    *,
    rows: int,
    tokens: int | None,
    pieces: Pieces = UNKEPT,
    done: Done = uncounted,
) -> dict[str, np.ndarray]:
    """Return what is measured of each question, in their order; nothing of no questions.

    Args:
        measure: Arrays by name, an entry for each question of a reading.
        rows: Most questions that are read at once.
        tokens: Most tokens that are read at once; None: what memory holds (`memory.tokens`).
        pieces: Keeps the arrays of so many questions as are read at once where memory suffices, made by one process.
        done: Called with the number of questions of each piece.
    """
    whole = batch.TOKENS if tokens is None else tokens
    if shape.keeps_states(model):  # their prompts end at one place without padding before them
        lengths, batching = [question.n_prompt for question in encoded], batch.of_one_length
    else:
        lengths, batching = [len(question.tokens) for question in encoded], batch.of_like_length
    batches = batching(lengths, rows=rows, tokens=whole)
    limit = memory.tokens(model, tokens, lengths, [len(question.completion) for question in encoded], rows=rows)
    parts = {}
    for number, own in processes.share(batches):

        def make(own: list[int] = own) -> dict[str, np.ndarray]:
            # What is kept, and by which process, does not depend on what memory happens to be free.
            at_once = batch.in_turn([lengths[row] for row in own], rows=rows, tokens=limit)
            readings = (read(model, [encoded[own[place]] for place in places], pad) for places in at_once)
            return _joined([measure(reading) for reading in readings])

        parts[number] = pieces.arrays(f"questions_{number}", make)
        done(len(own))
    found = _joined(processes.gathered(parts))
    back = np.argsort(np.concatenate(batches)) if batches else []
    return {name: values[back] for name, values in found.items()}


def forward(
    model: Model,
    input_ids: Int[torch.Tensor, "question token"],
    attention_mask: Shaped[torch.Tensor, "question token"],
    *,
    cache: DynamicCache | None = None,
    **options: Any,
) -> Float[torch.Tensor, "_ kept output"]:
    """Return the logits of one pass over what the cache does not hold; the cache is left as it is.

    Positions count from each row's first token, so that they do not depend on the side of the padding.
    """
    mask = attention_mask.to(model.device).long()
    inputs = {"input_ids": input_ids.to(model.device), "position_ids": _places(mask)}
    unread = {name: values[:, n_read(cache) :] for name, values in inputs.items()}
    copied = {"past_key_values": copy.deepcopy(cache), "use_cache": cache is not None}
    return model(**unread, **copied, attention_mask=mask, **options).logits


def logprob(
    model: Model,
    questions: QuestionBatch,
    *,
    cache: DynamicCache | None = None,
    run: Callable[..., torch.Tensor] | None = None,
) -> Float[torch.Tensor, " question"]:
    """Return the log-probability of each completion in nats, summed over its tokens, in float32 on the CPU.

    Args:
        run: Another `forward`.
    """
    return of_completions(questions, following(model, questions, cache=cache, run=run)).whole


@torch.no_grad()
def following(
    model: Model,
    questions: QuestionBatch,
    *,
    cache: DynamicCache | None = None,
    run: Callable[..., torch.Tensor] | None = None,
) -> Float[torch.Tensor, "place output"]:
    """Return every token's log-probability in nats where the completions' tokens are predicted, in reading order.

    In float32, where the model is.
    """
    predicts = questions.completion.roll(-1, dims=1)  # no completion begins with its row: nothing is rolled to the end
    with logits.only(model, predicts[:, n_read(cache) :]):
        predicting = (run or partial(forward, model))(questions.tokens, questions.mask, cache=cache)[0]
    return predicting.float().log_softmax(-1)


class Parts(NamedTuple):
    """The log-probability of completions in nats, whole and in part, on the CPU."""

    whole: Float[torch.Tensor, " question"]
    """Summed over all tokens."""
    first: Float[torch.Tensor, " question"]
    """Of the first token."""
    text: Float[torch.Tensor, " question"]
    """Summed over all tokens but the last, the end."""


def of_completions(questions: QuestionBatch, after: Float[torch.Tensor, "place output"]) -> Parts:
    """Return from what is `following` the log-probability of each completion."""
    targets = questions.tokens[questions.completion].to(after.device)
    chosen = after.gather(1, targets[:, None])[:, 0].cpu()
    lengths = questions.completion.sum(1).cpu()
    ends = lengths.cumsum(0)
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    is_text = torch.ones(len(chosen), dtype=torch.bool)
    is_text[ends - 1] = False
    nothing = torch.zeros(len(lengths))
    text = nothing.index_add(0, row[is_text], chosen[is_text])
    return Parts(nothing.index_add(0, row, chosen), chosen[ends - lengths], text)


def of_first(
    questions: QuestionBatch, after: Float[torch.Tensor, "place output"], tokens: Int[np.ndarray, " token"]
) -> Float[torch.Tensor, "question token"]:
    """Return from what is `following` the log-probability of each of these tokens right after each prompt, likewise."""
    lengths = questions.completion.sum(1)
    first = (lengths.cumsum(0) - lengths).to(after.device)
    return after[first[:, None], torch.from_numpy(tokens).to(after.device)].cpu()


def n_read(cache: DynamicCache | None) -> int:
    """Return how many places of each row are read already."""
    return 0 if cache is None else cache.get_seq_length()


def _cache(model: Model, tokens: Int[torch.Tensor, "row token"], mask: Int[torch.Tensor, "row token"]) -> DynamicCache:
    """Return the keys and values of rows that all end in their last place."""
    by_length = mask.sum(1).argsort(stable=True)
    parts = [_read(model, tokens[rows], mask[rows]) for rows in by_length.split(AT_ONCE)]
    back = by_length.argsort()
    cache = DynamicCache(config=model.config)
    for number, layers in enumerate(zip(*(part.layers for part in parts), strict=True)):
        keys = _left_padded([layer.keys for layer in layers], tokens.shape[1])
        values = _left_padded([layer.values for layer in layers], tokens.shape[1])
        cache.update(keys[back], values[back], number)
    return cache


def _read(model: Model, tokens: Int[torch.Tensor, "row token"], mask: Int[torch.Tensor, "row token"]) -> DynamicCache:
    """Return the keys and values of rows that all end in their last place, without the padding that all begin with."""
    first = tokens.shape[1] - max(1, int(mask.sum(1).max()))
    tokens, mask, cache = tokens[:, first:], mask[:, first:], DynamicCache(config=model.config)
    with logits.only(model, torch.zeros_like(mask, dtype=torch.bool)):
        model(input_ids=tokens, attention_mask=mask, position_ids=_places(mask), past_key_values=cache, use_cache=True)
    return cache


def _left_padded(parts: Sequence[Any], n_places: int) -> Float[torch.Tensor, "row head place size"]:
    """Return the rows of several parts, with zeros before the places that each has."""
    return torch.cat([functional.pad(part, (0, 0, n_places - part.shape[2], 0)) for part in parts])


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays of several parts as one each, in their order; nothing of no parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _places(mask: Int[torch.Tensor, "row token"]) -> Int[torch.Tensor, "row token"]:
    return (mask.cumsum(1) - 1).clamp(min=0)
