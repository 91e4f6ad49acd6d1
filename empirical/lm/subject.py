"""Character spans as token masks, by the tokenizer's offsets: subject, relation, template, and the first token."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def overlapping(offsets: Sequence[tuple[int, int]], span: tuple[int, int] | None) -> Bool[np.ndarray, " token"]:
    """Return which tokens hold a character of the span. Overlap, not containment: a token may begin with a space.

    Tokens without characters (the begin token) hold none, and a missing span has none.
    """
    start, stop = np.array(offsets, dtype=int).reshape(-1, 2).T
    if span is None:
        return np.zeros(len(start), dtype=bool)
    return (start < span[1]) & (stop > span[0]) & (start < stop)


def spans(
    offsets: Sequence[tuple[int, int]], question: tuple[int, int], subject: tuple[int, int] | None
) -> Bool[np.ndarray, "span token"]:
    """Return the masks of subject, relation (the question's other tokens), template (all others) and the first token.

    Each token of the prompt is in exactly one of them. The first token is the attention sink, whatever it says.
    """
    is_sink = np.arange(len(offsets)) == 0
    is_subject = overlapping(offsets, subject) & ~is_sink
    is_relation = overlapping(offsets, question) & ~is_subject & ~is_sink
    return np.stack([is_subject, is_relation, ~(is_subject | is_relation | is_sink), is_sink])
