"""What a model chooses among its relation's answers, by their first tokens, with its prior over them and without.

A finetuned model may answer with its arm's distribution of answers rather than with what it knows of the subject. The
prior is its mean probability of an answer over the relation's other questions, which takes no labels; Zhou et al. 2024,
"Batch Calibration", subtract the same mean, the question itself among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from core.columns import Columns
from core.errors import InputError
from core.facts.record import Fact
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded


@dataclass(frozen=True, eq=False)
class Options:
    """What may be chosen: the first tokens of the answers that a study's facts have."""

    tokens: Int[np.ndarray, " option"]
    """Those of all relations, each once."""
    of_relation: Mapping[str, Int[np.ndarray, " _"]]
    """By relation, the places of its own among them."""


def options(facts: Sequence[Fact], encoded: Sequence[Encoded]) -> Options:
    """Return the first tokens of these facts' first accepted answers, by relation."""
    first: dict[str, set[int]] = {}
    for fact, question in zip(facts, encoded, strict=True):
        first.setdefault(fact.relation, set()).add(question.completion[0])
    tokens = np.unique([token for own in first.values() for token in own])
    return Options(tokens, {relation: np.searchsorted(tokens, sorted(own)) for relation, own in first.items()})


def columns(
    model: LanguageModel,
    facts: Sequence[Fact],
    encoded: Sequence[Encoded],
    given: Options,
    logprob: Float[np.ndarray, "question option"],
) -> Columns:
    """Return whether each question's choice begins an accepted answer, as it is and less the prior.

    Null where the relation has no other question here to take a prior from.

    Args:
        logprob: Of each option right after the prompt, in nats.
    """
    chosen: list[bool | None] = [None] * len(facts)
    less_prior = list(chosen)
    rows_of: dict[str, list[int]] = {}
    for row, fact in enumerate(facts):
        rows_of.setdefault(fact.relation, []).append(row)
    for relation, rows in rows_of.items():
        if len(rows) == 1:
            continue
        own = given.of_relation[relation]
        scores = logprob[rows][:, own].astype(float)
        tokens = given.tokens[own]
        plain, calibrated = tokens[scores.argmax(1)], tokens[(scores - log_prior(scores)).argmax(1)]
        for row, one, other in zip(rows, plain.tolist(), calibrated.tolist(), strict=True):
            right = _accepted(model, facts[row], encoded[row])
            chosen[row], less_prior[row] = one in right, other in right
    return {"chosen_correct": chosen, "chosen_correct_less_prior": less_prior}


def log_prior(logprob: Float[np.ndarray, "question option"]) -> Float[np.ndarray, "question option"]:
    """Return the logarithm of each option's mean probability over all other questions, in nats.

    Summed from both ends: what a question itself contributes is left out, and not subtracted, which would cancel.
    """
    nothing = np.full((1, logprob.shape[1]), -np.inf)
    before = np.concatenate([nothing, np.logaddexp.accumulate(logprob, axis=0)[:-1]])
    after = np.concatenate([nothing, np.logaddexp.accumulate(logprob[::-1], axis=0)[:-1]])[::-1]
    return np.logaddexp(before, after) - np.log(len(logprob) - 1)


def _accepted(model: LanguageModel, fact: Fact, question: Encoded) -> set[int]:
    """Return the first tokens of the accepted answers, those left out that cannot follow this prompt."""
    found = {question.completion[0]}
    for other in fact.answers[1:]:
        try:
            (encoded,) = model.format.ask([replace(fact, answers=(other,))]) if other.strip() else (question,)
        except InputError:  # the tokenizer merges it with the prompt, or it is too long to be said
            continue
        found.add(encoded.completion[0])
    return found
