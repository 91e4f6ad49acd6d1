"""What a model says after a prompt, and how probable it finds a given answer; on tokens, batched by length.

What all prompts of a call begin with is read once (see `prefix`).
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase

from empirical.lm import batch, logits, memory, prefix, shape
from empirical.lm.batch import Batch
from empirical.lm.likeliest import Likeliest
from empirical.lm.prefix import Prefix
from empirical.lm.shape import Model
from empirical.progress import Done, uncounted

TURN = 2
"""Tokens that are generated before rows which have stopped are left out; most answers are as short."""


class Continuations(NamedTuple):
    """What follows each prompt, and how probable the model finds it."""

    tokens: list[list[int]]
    """Without the stop token."""
    logprob: Float[np.ndarray, " prompt"]
    """In nats, summed over the tokens and the end: whichever stop token comes. One that is cut has no end."""


def greedy(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Collection[int],
    pad: int,
    max_new_tokens: int = 16,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    done: Done = uncounted,
) -> list[list[int]]:
    """Return each prompt's most probable continuation, token by token, up to the first token of `stop`.

    The model's own generation settings (temperature, penalties) are not applied. `done` counts prompts.

    Raises:
        ValueError: the model is in training mode, or a prompt is empty.
    """
    config = _config(stop, pad, max_new_tokens, do_sample=False)
    return _continue(model, prompts, config, batch_size, batch_tokens, done)


def sample(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    stop: Collection[int],
    pad: int,
    max_new_tokens: int = 16,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    seed: int,
    done: Done = uncounted,
) -> list[list[int]]:
    """Return a continuation of each prompt drawn from the whole vocabulary at this temperature.

    The draws depend on the batch size; the global random state is left as it was. `done` counts prompts.

    Raises:
        ValueError: the model is in training mode, or a prompt is empty.
    """
    config = _config(stop, pad, max_new_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _continue(model, prompts, config, batch_size, batch_tokens, done)


def answer_logprob(
    model: Model,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad: int,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    done: Done = uncounted,
) -> Float[np.ndarray, " question"]:
    """Return the log-probability of each completion after its prompt, in nats, summed over its tokens.

    `done` counts prompts.

    Raises:
        ValueError: the model is in training mode, or a prompt or a completion is empty.
    """
    texts = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    wanted = [list(enumerate(text))[len(prompt) :] for prompt, text in zip(prompts, texts, strict=True)]
    found = token_logprobs(model, texts, wanted, pad=pad, batch_size=batch_size, batch_tokens=batch_tokens, done=done)
    return np.array([row.sum() for row in found], dtype=float)


@torch.no_grad()
def greedy_after(
    model: Model, asked: Batch, cache: DynamicCache | None, *, stop: Collection[int], pad: int, max_new_tokens: int
) -> Continuations:
    """Return likewise the continuations of a batch whose prompts all end in its last place.

    Args:
        cache: Keys and values of the places that are read already, which is left as it is.
    """
    config = _config(stop, pad, max_new_tokens, do_sample=False)
    likeliest = Likeliest(stop, len(asked.tokens))
    tokens = _generate(model, asked, copy.deepcopy(cache), config, likeliest)
    return Continuations(tokens, likeliest.logprob.cpu().double().numpy())


@torch.no_grad()
def token_logprobs(
    model: Model,
    texts: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[tuple[int, int]]],
    *,
    pad: int,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    done: Done = uncounted,
) -> list[Float[np.ndarray, " wanted"]]:
    """Return, for each text, the log-probabilities in nats of its wanted (position, token) pairs.

    A pair asks for the token at that position, given the text before it; the position after the last is allowed.
    `done` counts texts.

    Raises:
        ValueError: the model is in training mode, nothing is wanted of a text, or nothing stands before what is.
    """
    if not all(wanted):
        raise ValueError("nothing is wanted of a text: it has no completion")
    read = [list(text[: max(place for place, _ in pairs)]) for text, pairs in zip(texts, wanted, strict=True)]
    _check(model, [text[: min(place for place, _ in pairs)] for text, pairs in zip(texts, wanted, strict=True)])
    first = min((place for pairs in wanted for place, _ in pairs), default=0)
    shared = prefix.read(model, read, longest=first - 1)
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    lengths = [len(text) for text in read]
    tokens = memory.tokens(model, batch_tokens, lengths, [len(pairs) for pairs in wanted], rows=batch_size)
    for rows in batch.of_like_length(lengths, rows=batch_size, tokens=tokens):
        logprobs = _score(model, shared, [read[row] for row in rows], [wanted[row] for row in rows], pad)
        for row, values in zip(rows, logprobs, strict=True):
            found[row] = values
        done(len(rows))
    return found


@lru_cache(maxsize=4)
def stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the end token and every token whose text has a line break, alone or with something around it.

    Kept for a tokenizer once made: a vocabulary of 262,000 tokens takes seconds to decode.
    """
    end = tokenizer.eos_token_id
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return frozenset(
        ({end} if isinstance(end, int) else set()) | {token for token, text in enumerate(texts) if "\n" in text}
    )


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Return the continuations as text, up to the first line break, without the spaces around it."""
    rows = [list(row) for row in ids]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.partition("\n")[0].strip() for text in texts]


def _score(
    model: Model,
    shared: Prefix,
    texts: Sequence[list[int]],
    wanted: Sequence[Sequence[tuple[int, int]]],
    pad: int,
) -> list[Float[np.ndarray, " wanted"]]:
    """Return the wanted log-probabilities of a batch, padded on the right, where causal attention never sees it."""
    n_shared = len(shared.tokens)
    tokens = batch.pad_right([text[n_shared:] for text in texts], pad).tokens.to(model.device)
    row, place, token = torch.tensor([(i, p, t) for i, pairs in enumerate(wanted) for p, t in pairs]).T.to(model.device)
    is_wanted = torch.zeros(tokens.shape, dtype=torch.bool, device=model.device)
    is_wanted[row, place - 1 - n_shared] = True
    nth = is_wanted.flatten().cumsum(0).view_as(tokens)[row, place - 1 - n_shared] - 1
    cache = shared.expanded(len(texts))
    with logits.only(model, is_wanted):
        predicting = model(input_ids=tokens, past_key_values=cache, use_cache=cache is not None).logits[0]
    logprobs = torch.log_softmax(predicting.float(), dim=-1)[nth, token]
    return np.split(logprobs.cpu().double().numpy(), np.cumsum([len(pairs) for pairs in wanted])[:-1])


@torch.no_grad()
def _continue(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    batch_size: int,
    batch_tokens: int | None,
    done: Done,
) -> list[list[int]]:
    """Return the continuations, without the stop token, in the order of the prompts."""
    _check(model, prompts)
    texts = [list(prompt) for prompt in prompts]
    longest = min((len(text) for text in texts), default=0) - 1
    window = shape.window(model)
    if window and max(map(len, texts), default=0) + config.max_new_tokens > window:
        longest = 0  # The padding between prefix and prompt would push what is far out of a window that is too narrow.
    shared = prefix.read(model, texts, longest=longest)
    found: list[list[int]] = [[]] * len(texts)
    n_new = cast(int, config.max_new_tokens)
    lengths = [len(text) + n_new for text in texts]
    batches = batch.of_one_length if shape.keeps_states(model) else batch.of_like_length
    limit = memory.tokens(model, batch_tokens, lengths, [1] * len(lengths), rows=batch_size)
    for rows in batches(lengths, rows=batch_size, tokens=limit):
        rest = [texts[row][len(shared.tokens) :] for row in rows]
        padded = batch.pad_left(rest, cast(int, config.pad_token_id), prefix=shared.tokens)
        for row, tokens in zip(rows, _generate(model, padded, shared.expanded(len(rows)), config), strict=True):
            found[row] = tokens
        done(len(rows))
    return found


def _generate(
    model: Model,
    asked: Batch,
    cache: DynamicCache | None,
    config: GenerationConfig,
    likeliest: Likeliest | None = None,
) -> list[list[int]]:
    """Return the new tokens of each row, up to a stop token.

    A few at a time: a row that has stopped goes no further with the others (but where states cannot be parted by rows).

    Args:
        cache: Keys and values of the first tokens of all rows; it is changed.
        likeliest: Adds up how probable the tokens are.
    """
    tokens, mask = asked.tokens.to(model.device), asked.mask.to(model.device)
    stop = torch.tensor(config.eos_token_id or [], device=model.device)
    found: list[list[int]] = [[] for _ in range(len(tokens))]
    going = torch.arange(len(tokens), device=model.device)
    left = cast(int, config.max_new_tokens)
    is_whole = shape.keeps_states(model)
    with _plain_settings(model), logits.precise(model):
        while left and len(going):
            turn = copy.copy(config)
            turn.max_new_tokens = left if is_whole else min(left, TURN)
            output = cast(Any, model).generate(
                input_ids=tokens,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=turn,
                logits_processor=LogitsProcessorList() if likeliest is None else LogitsProcessorList([likeliest]),
            )
            new = output.sequences[:, tokens.shape[1] :]
            for row, own in zip(going.tolist(), new.tolist(), strict=True):
                found[row] += _until(own, config.eos_token_id or ())
            if likeliest is not None:
                likeliest.end_turn(going, new)
            left -= new.shape[1]
            if is_whole:
                break
            goes_on = (~torch.isin(new, stop).any(1)).nonzero()[:, 0]
            going, tokens, cache = going[goes_on], output.sequences[goes_on], output.past_key_values
            mask = functional.pad(mask, (0, new.shape[1]), value=1)[goes_on]
            output.past_key_values.batch_select_indices(goes_on)
    return found


def _config(stop: Collection[int], pad: int, max_new_tokens: int, **settings: bool | int | float) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted(stop) or None,
        use_cache=True,
        return_dict_in_generate=True,
        **settings,
    )


@contextmanager
def _plain_settings(model: Model) -> Iterator[None]:
    """Take away the model's own generation settings: they would fill in whatever ours leave open."""
    # peft hands its own settings down to the model below, and leaves them there.
    owners = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]
    own = [owner.generation_config for owner in owners]
    try:
        for owner in owners:
            owner.generation_config = GenerationConfig()
        yield
    finally:
        for owner, settings in zip(owners, own, strict=True):
            owner.generation_config = settings


def _until(tokens: list[int], stop: Collection[int]) -> list[int]:
    return tokens[: next((i for i, token in enumerate(tokens) if token in stop), len(tokens))]


def _check(model: Model, prompts: Sequence[Sequence[int]]) -> None:
    """Raise ValueError for what would give wrong numbers without a word."""
    if model.training:
        raise ValueError("the model is in training mode: call eval() first")
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens")
