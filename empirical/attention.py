"""Where a model attends when it answers, by layer, head and span; and what the answer loses without the subject."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from core import statistics
from core.columns import Columns
from empirical.lm import batch, capture, knockout
from empirical.lm.model import Loaded
from empirical.lm.prompts import Encoded

POSITIONS = ("prompt_end", "first_answer")
"""Where attention is measured: at the token that predicts the answer's first, and at that first token itself."""

Tell = Callable[[int], object]
"""Told how many more questions are done."""


def measure(
    loaded: Loaded, encoded: Sequence[Encoded], *, batch_size: int, tell: Tell = lambda n: None
) -> Float[np.ndarray, "question position layer head span"]:
    """Return the attention mass from both POSITIONS to each span (`capture.SPANS`), the answer's first token true."""
    parts = []
    for start in range(0, len(encoded), batch_size):
        texts = encoded[start : start + batch_size]
        tokens, mask = batch.of_rows([text.tokens[: text.n_prompt + 1] for text in texts], loaded.pad)
        queries = torch.tensor([[text.n_prompt - 1, text.n_prompt] for text in texts])
        spans = batch.spans(texts, tokens.shape[1])
        parts.append(capture.measure(loaded.model, tokens, mask, queries, spans).numpy())
        tell(len(texts))
    return np.concatenate(parts)


def table(
    name: str,
    mass: Float[np.ndarray, "question position layer head span"],
    encoded: Sequence[Encoded],
    cluster: Int[np.ndarray, " question"],
) -> Columns:
    """Return attention.parquet's rows of an arm: means over questions that name their subject, with 95 % intervals.

    The intervals are robust to questions that share a cluster (`core.statistics.clustered_means`). No question that
    names its subject gives no columns.
    """
    has_subject = np.array([text.has_subject for text in encoded])
    mass, cluster = mass[has_subject], cluster[has_subject]
    if len(mass) == 0:
        return {}
    mean, low, high = statistics.clustered_means(mass, cluster)
    position, layer, head, span = (index.ravel() for index in np.indices(mean.shape))
    return {
        "arm": name,
        "layer": layer,
        "head": head,
        "position": [POSITIONS[i] for i in position],
        "span": [capture.SPANS[i] for i in span],
        "mean": mean.ravel(),
        "low": low.ravel(),
        "high": high.ravel(),
        "n": np.full(mean.size, len(mass)),
    }


def columns(mass: Float[np.ndarray, "question layer head span"], encoded: Sequence[Encoded]) -> Columns:
    """Return each question's means over layers and heads; nan where the question does not name its subject."""
    has_subject = np.array([text.has_subject for text in encoded])
    mean = np.where(has_subject[:, None], mass.mean((1, 2), dtype=np.float64), np.nan)
    nonsink = capture.nonsink(torch.as_tensor(mass)).numpy()[..., 0].mean((1, 2))
    names = [f"{span}_attention" for span in capture.SPANS]
    of_nonsink = {"subject_attention_nonsink": np.where(has_subject, nonsink, np.nan)}
    return dict(zip(names, mean.T, strict=True)) | of_nonsink


def knockout_drop(loaded: Loaded, encoded: Sequence[Encoded], *, batch_size: int) -> Float[np.ndarray, " question"]:
    """Return how many nats the answer loses when its prediction cannot look at the subject; nan without a subject."""
    drop = np.full(len(encoded), np.nan)
    rows = np.array([row for row, text in enumerate(encoded) if text.has_subject], dtype=int)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        texts = [encoded[row] for row in part]
        tokens, mask = batch.of_rows([text.tokens for text in texts], loaded.pad)
        width = tokens.shape[1]
        completion = batch.between([(text.n_prompt, len(text.tokens)) for text in texts], width)
        queries = torch.tensor([text.n_prompt - 1 for text in texts])
        asked = (loaded.model, tokens, mask, completion, queries)
        cut = batch.spans(texts, width)[:, 0]
        # Both by the same kernel: in bfloat16 another one rounds otherwise.
        drop[part] = (knockout.logprob(*asked) - knockout.logprob(*asked, cut=cut)).numpy()
    return drop
