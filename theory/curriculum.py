"""R9's curriculum: at every step the facts whose force on attention to the subject is largest where it is by then."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core.facts.store import FactStore
from theory import evaluate
from theory.config import Config
from theory.model import factored, traced
from theory.model.config import Weights


class End(NamedTuple):
    """What the held-out questions come to."""

    subject_share: float
    accuracy: float


def run(
    config: Config,
    base: Weights,
    store: FactStore,
    train: Int[np.ndarray, " row"],
    held_out: Int[np.ndarray, " row"],
    n: int,
) -> End:
    """Return where finetuning attention ends if every step is one on the n facts of largest force at its share.

    The facts are chosen by their force with the template suppressed, as R9's bound counts it, at the mean share of the
    held-out questions; the step itself is the model's own, in float64.

    Args:
        base: the base model at the question prompt, its values frozen.
        n: from 1 to all training facts.
    """
    constants = traced.uncounted(config.model)
    with jax.enable_x64(True):
        values, start = factored.of_weights(base)
        facts = factored.Facts(*(jnp.asarray(ids) for ids in (store.subject, store.relation, store.answer)))
        own, asked = facts.take(train), facts.take(held_out)
        of_subject, of_relation = values.subject[own.subject], values.relation[own.relation]
        at_answer = [jnp.take_along_axis(of, own.answer[:, None], axis=1)[:, 0] for of in (of_subject, of_relation)]

        def mean_share(logits: factored.Logits) -> Float[Array, ""]:
            # A held-out subject's own logit never moves.
            return jax.nn.sigmoid(logits.shared[0] - logits.shared[1] - logits.relation[asked.relation]).mean()

        def step(logits: factored.Logits, _: Any) -> tuple[factored.Logits, None]:
            share = mean_share(logits)
            p = jax.nn.softmax(share * of_subject + (1 - share) * of_relation, axis=1)
            lead = at_answer[0] - at_answer[1] - (p * (of_subject - of_relation)).sum(axis=1)
            _, chosen = jax.lax.top_k(lead, n)  # the force is share (1 − share) times this
            batch, rate = own.take(chosen), jnp.asarray(config.finetune.learning_rate)
            return factored.question_step(values, logits, batch, rate, None, constants, "template")[1], None

        end = jax.jit(lambda start: jax.lax.scan(step, start, length=config.finetune.steps)[0])(start)
        answers = evaluate.answer(factored.weights(values, end), store, held_out)
        return End(float(mean_share(end)), float(answers.correct.mean()))
