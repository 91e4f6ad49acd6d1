"""What the last token attends to: subject, relation, template."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax

from theory.model.config import Weights


def measure(
    weights: Weights, subject: Int[np.ndarray, " fact"], relation: Int[np.ndarray, " fact"]
) -> Float[np.ndarray, "fact token"]:
    """Return each question's attention over (subject, relation, template), in float64. Rows sum to 1."""
    by_subject = weights.subject_logit
    scores = np.empty((len(subject), 3))
    scores[:, 0] = by_subject[subject, relation] if by_subject.ndim == 2 else by_subject[subject]
    scores[:, 1] = weights.relation_logit[relation]
    scores[:, 2] = weights.template_logit
    return softmax(scores, axis=1)


def subject_share(attention: Float[np.ndarray, "fact token"]) -> Float[np.ndarray, " fact"]:
    """Return t = α_s / (α_s + α_r), the subject's part of the attention that is not the template's."""
    return attention[:, 0] / (attention[:, 0] + attention[:, 1])
