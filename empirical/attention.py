"""Where the model looks when it answers: attention to subject, relation, template and sink, and what it is good for.

Mechanics: `lm.capture` reads the attention of a running model, `lm.knockout` cuts it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from core import statistics
from core.columns import Columns
from empirical.lm import batch, capture, knockout, shape
from empirical.lm.capture import Grams
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.lm.reading import Reading

POSITIONS = ("prompt_end", "first_answer")
"""Where attention is measured: at the token that predicts the answer's first, and at that first token itself."""
DROPS = ("knockout_drop", "knockout_drop_first")
"""What knockout costs: the whole answer, and its first token."""


def seen(model: LanguageModel, given: Reading, *, grams: Grams) -> dict[str, np.ndarray]:
    """Return `mass`, `value_mass` and what knockout costs (DROPS) of the questions that are read."""
    return masses(model, given, grams=grams) | knockout_drops(model, given)


def unseen(model: LanguageModel, given: Reading) -> dict[str, np.ndarray]:
    """Return likewise nan for all of them, of a model whose attention cannot be measured."""
    shape_of = (len(given.encoded), len(POSITIONS), shape.n_layers(model.network), shape.n_heads(model.network))
    nothing = np.full((*shape_of, len(capture.SPANS)), np.nan, dtype=np.float32)
    return {"mass": nothing, "value_mass": nothing} | {name: np.full(len(given.encoded), np.nan) for name in DROPS}


def masses(model: LanguageModel, given: Reading, *, grams: Grams) -> dict[str, np.ndarray]:
    """Return attention as `mass` and weighted by values as `value_mass`: question × position × layer × head × span.

    From both POSITIONS to each span (`capture.SPANS`), the answer's first token true; see `capture.both`.
    """
    questions = batch.of_questions(given.encoded, model.pad, answer_tokens=1, aligned=True)
    queries = torch.stack([questions.prompt_end, questions.prompt_end + 1], dim=1)
    inputs = (questions.tokens, questions.mask, queries, questions.spans)
    mass, value_mass = capture.both(model.network, *inputs, grams=grams, cache=given.cache)
    return {"mass": mass.numpy(), "value_mass": value_mass.numpy()}


def to_subject(network: shape.Model, questions: batch.QuestionBatch, has_subject: Sequence[bool]) -> float:
    """Return the mean attention to the subject over layers, heads and questions that name it; nan if none does."""
    queries = questions.prompt_end[:, None]
    mass = capture.measure(network, questions.tokens, questions.mask, queries, questions.spans)
    return float(mass[torch.tensor(has_subject), 0, :, :, 0].mean()) if any(has_subject) else float("nan")


def table(
    name: str,
    mass: Float[np.ndarray, "question position layer head span"],
    value_mass: Float[np.ndarray, "question position layer head span"],
    encoded: Sequence[Encoded],
    cluster: Int[np.ndarray, " question"],
) -> Columns:
    """Return attention.parquet's rows of an arm: means over questions that name their subject, with 95 % intervals.

    The intervals are robust to questions that share a cluster (`core.statistics.clustered_means`); no columns where no
    question names its subject.
    """
    has_subject = np.array([question.has_subject for question in encoded])
    mass, value_mass, cluster = mass[has_subject], value_mass[has_subject], cluster[has_subject]
    n, *shape = mass.shape
    if n == 0:
        return {}
    mean, low, high = statistics.clustered_means(mass, cluster)
    weighted = statistics.clustered_means(value_mass, cluster)
    position, layer, head, span = (index.ravel() for index in np.indices(shape))
    return {
        "arm": name,
        "layer": layer,
        "head": head,
        "position": [POSITIONS[i] for i in position],
        "span": [capture.SPANS[i] for i in span],
        "mean": mean.ravel(),
        "low": low.ravel(),
        "high": high.ravel(),
        "n": np.full(mean.size, n),
        **{f"value_weighted{end}": part.ravel() for end, part in zip(("", "_low", "_high"), weighted, strict=True)},
    }


def columns(
    mass: Float[np.ndarray, "question layer head span"],
    value_mass: Float[np.ndarray, "question layer head span"],
    encoded: Sequence[Encoded],
) -> Columns:
    """Return the means over layers and heads by question; null where the question does not name its subject."""
    has_subject = np.array([question.has_subject for question in encoded])
    mean = np.where(has_subject[:, None], mass.mean((1, 2), dtype=np.float64), np.nan)
    nonsink = np.where(has_subject, capture.nonsink(torch.as_tensor(mass)).numpy()[..., 0].mean((1, 2)), np.nan)
    names = [f"{span}_attention" for span in capture.SPANS]
    by_value = np.where(has_subject, value_mass[..., 0].mean((1, 2), dtype=np.float64), np.nan)
    more = {"subject_attention_nonsink": nonsink, "subject_value_attention": by_value}
    return dict(zip(names, mean.T, strict=True)) | more


def knockout_drops(model: LanguageModel, given: Reading) -> dict[str, Float[np.ndarray, " question"]]:
    """Return, by DROPS, the log-probability that the answer and its first token lose without sight of the subject.

    It is the prompt's last token, which predicts the first of the answer, that cannot look at the subject; nan where
    the question does not name it.
    """
    has_subject = np.array([question.has_subject for question in given.encoded])
    if not has_subject.any():
        return {name: np.full(len(has_subject), np.nan) for name in DROPS}
    inputs = (model.network, given.questions)
    # Both by the same kernel: in bfloat16 another one rounds otherwise.
    before = knockout.logprobs(*inputs, cache=given.cache)
    after = knockout.logprobs(*inputs, cut=given.questions.spans[:, 0], cache=given.cache)
    lost = before.whole - after.whole, before.first - after.first
    return {name: np.where(has_subject, drop.double().numpy(), np.nan) for name, drop in zip(DROPS, lost, strict=True)}
