"""What of a difference between two models moves with activations or weights that one is given of the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from core import statistics
from core.columns import Columns
from core.errors import InputError
from empirical.evaluate import EvaluateConfig
from empirical.lm import batch, graft, knockout, patch
from empirical.lm.batch import QuestionBatch
from empirical.lm.model import LanguageModel
from empirical.lm.patch import Patch, Scores
from empirical.lm.prompts import Encoded
from empirical.progress import Done, uncounted

PATCHES = (
    *("attention@subject", "attention@all", "value@subject", "value@end", "mlp@subject_last", "mlp@end"),
    *("layer@subject", "layer@end"),
)
"""What is patched where nothing else is said."""
GRAFTS = (*graft.PARTS, "query_key+value_output", "value_output+mlp")
"""What is grafted where nothing else is said; a plus joins parts."""


class Asked(NamedTuple):
    """What every outcome is measured by."""

    config: EvaluateConfig
    encoded: Sequence[Encoded]
    done: Done = uncounted
    """Counts questions."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model makes of the true answers, an entry for each question."""

    logprob: Float[np.ndarray, " question"]
    """In nats, summed over the answer's tokens and the end."""
    is_right: Bool[np.ndarray, " question"]
    """Whether each of those tokens is the likeliest, given the true ones before it: the greedy answer is the first
    accepted one to the letter, which is stricter than an exact match."""


def check(receiver: LanguageModel, donor: LanguageModel) -> None:
    """Raise InputError if one cannot be given what the other has."""
    graft.check_alike(receiver.network, donor.network)
    if receiver.tokenizer.get_vocab() != donor.tokenizer.get_vocab():
        raise InputError(
            f"{receiver.name} and {donor.name} have different tokenizers: their tokens do not stand for each other.\n"
            "Name two models that were finetuned from the same base."
        )


def windows(n_layers: int, n: int) -> list[tuple[int, ...]]:
    """Return the layers in so many neighbouring groups, as equal as can be; InputError for more than there are."""
    if not 1 <= n <= n_layers:
        raise InputError(f"--windows is {n}: it must be 1 to {n_layers}, the number of layers.")
    return [tuple(int(layer) for layer in part) for part in np.array_split(np.arange(n_layers), n)]


def named(layers: Sequence[int]) -> str:
    """Return neighbouring layers as text."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


def plain(model: LanguageModel, asked: Asked) -> Outcome:
    """Return a model's own outcome."""
    return _each(model, asked, lambda questions: patch.scores(model.network, questions))


def patched(
    receiver: LanguageModel,
    donor: LanguageModel,
    what: str,
    asked: Asked,
) -> Outcome:
    """Return the receiver's outcome under patches of the donor's activations.

    Args:
        what: One patch, or several at once with a plus between (`Patch.parse`).

    Raises:
        InputError: there is no such patch.
    """
    patches = [Patch.parse(text) for text in what.split("+")]

    def scoring(questions: QuestionBatch) -> Scores:
        return patch.scores(receiver.network, questions, patches, donor=donor.network)

    return _each(receiver, asked, scoring)


def grafted(
    receiver: LanguageModel,
    donor: LanguageModel,
    what: str,
    asked: Asked,
    *,
    layers: Sequence[int] | None = None,
    share: float = 1.0,
) -> Outcome:
    """Return the receiver's outcome with weights of the donor.

    Args:
        what: One of `graft.PARTS`, or several with a plus between.

    Raises:
        InputError: there is no such part.
    """
    with graft.grafted(receiver.network, donor.network, what.split("+"), layers=layers, share=share):
        return plain(receiver, asked)


def cut(
    model: LanguageModel,
    layers: Sequence[int] | None,
    asked: Asked,
) -> Float[np.ndarray, " question"]:
    """Return the true answers' log-probability where the prompt's end may not look at the subject in these layers.

    Args:
        layers: None: nothing is cut.
    """

    def scoring(questions: QuestionBatch) -> Scores:
        edges = None if layers is None else questions.spans[:, 0]
        logprob = knockout.logprob(model.network, questions, cut=edges, layers=layers)
        return Scores(logprob, torch.zeros(len(logprob), dtype=torch.bool))

    return _each(model, asked, scoring).logprob


def table(
    own: Outcome, other: Outcome, found: Mapping[str, Outcome], cluster: Int[np.ndarray, " question"], *, seed: int
) -> Columns:
    """Return a row for each outcome: its accuracy, and the share of the gap that moved, with 95 % intervals.

    The share is what the intervention adds to the receiver's mean, over what the donor has more. Intervals are
    bootstraps over the clusters; where the two models hardly differ, they are wide.

    Args:
        own: The receiver's.
        other: The donor's.
        found: The receiver's under each intervention.
        cluster: Questions of one subject share it.
    """
    rows = []
    for name, outcome in {"receiver": own, "donor": other, **found}.items():
        n, right = len(outcome.is_right), outcome.is_right.astype(float)
        moved = [
            statistics.clustered_ratio(after - mine, theirs - mine, cluster, seed=seed)
            for after, mine, theirs in (
                (right, own.is_right.astype(float), other.is_right.astype(float)),
                (outcome.logprob, own.logprob, other.logprob),
            )
        ]
        accuracy = statistics.clustered_interval(right, cluster, seed=seed)
        numbers = (n, *accuracy, float(outcome.logprob.mean()), *moved[0], *moved[1])
        rows.append((name, *numbers))
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))


COLUMNS = (
    *("intervention", "n", "accuracy", "accuracy_low", "accuracy_high", "logprob"),
    *("share", "share_low", "share_high", "logprob_share", "logprob_share_low", "logprob_share_high"),
)
"""Of patch.parquet and graft.parquet; `share` is of the gap in accuracy that moves."""


def _each(model: LanguageModel, asked: Asked, scoring: Callable[[QuestionBatch], Scores]) -> Outcome:
    """Return the outcome of all questions, read in batches."""
    config, encoded, done = asked
    lengths = [len(question.tokens) for question in encoded]
    batches = batch.of_like_length(lengths, rows=config.batch_size, tokens=config.batch_tokens)
    logprob, is_right = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=bool)
    for rows in batches:
        scored = scoring(batch.of_questions([encoded[row] for row in rows], model.pad))
        logprob[rows], is_right[rows] = scored.logprob.double().numpy(), scored.is_right.numpy()
        done(len(rows))
    return Outcome(logprob, is_right)
