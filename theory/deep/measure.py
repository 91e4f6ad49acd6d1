"""What a deep run's directory holds: the columns of every theory run, and attention by layer and head."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from core import split, statistics
from theory import evaluate, measure
from theory.deep.config import DeepConfig, Sizes, sizes
from theory.deep.network import RELATION, TEMPLATE, read
from theory.deep.pipeline import DeepRun
from theory.evaluate import Answers

POSITIONS = {"prompt_end": TEMPLATE, "relation": RELATION}
"""Where attention is measured from: the question's last token, and the relation, where the stored answer is read out
in the pretraining format."""
SPANS = ("subject", "subject_last", "relation", "template")
"""What is attended to: all the subject's tokens, the last of them, the other two tokens."""


class Said(NamedTuple):
    """What one model does on each fact."""

    recalled: Answers
    """Answers in the pretraining format."""
    answered: Answers
    """Answers in the question format. Attention is the mean over layers and heads."""
    attention: Float[np.ndarray, "fact layer head position span"]
    """Positions as in POSITIONS, spans as in SPANS."""


def run(simulated: DeepRun) -> tuple[dict[str, dict[str, float]], list[dict], list[dict], list[dict]]:
    """Return metrics by arm, then by arm the columns of facts.parquet, trace.parquet and attention.parquet."""
    store, halves, pretrain = simulated.store, simulated.split, simulated.config.pretrain
    rows = np.flatnonzero(~store.is_background)
    base_correct = answer(simulated, "base", rows).recalled.correct
    generic = {arm: evaluate.generic_answers(store, own) for arm, own in halves.arms.items()}
    is_held_out = halves.role[rows] == split.HELD_OUT
    metrics, facts, attention = {}, [], []
    for arm in simulated.parameters:
        said = answer(simulated, arm, rows)
        columns = measure.fact_columns(
            simulated, arm, said.answered, rows, base_correct, generic, n_draws=pretrain.steps * pretrain.batch_size
        )
        metrics[arm] = measure.metrics_of(columns, store.subject[rows], seed=simulated.seed)
        facts.append(measure.named(columns, store))
        looked, subject = said.attention[is_held_out], store.subject[rows][is_held_out]
        attention.append({"arm": arm} | attention_columns(looked, subject))
    return metrics, facts, _trace_columns(simulated), attention


def answer(simulated: DeepRun, arm: str, rows: Int[np.ndarray, " fact"]) -> Said:
    """Return what the arm's model does on these facts; salience, which a deep model has none of, is NaN."""
    config, store = simulated.config, simulated.store
    network = _network(config, sizes(config, store))
    parts = []
    for part in evaluate.chunks(rows, config.layers * simulated.prompts.shape[1] * config.d_ff):
        output = network(simulated.parameters[arm], simulated.prompts[part])
        logits, attention = np.asarray(output.logits, float), np.asarray(output.attention, float)
        looked = _spans(np.moveaxis(attention, 0, 1))
        mean = looked[:, :, :, list(POSITIONS).index("prompt_end")].mean(axis=(1, 2))
        tokens = mean[:, [SPANS.index(span) for span in ("subject", "relation", "template")]]
        given = store.answer[part]
        parts.append((answers(logits[:, RELATION], given, tokens), answers(logits[:, TEMPLATE], given, tokens), looked))
    recalled, answered, looked = (list(column) for column in zip(*parts, strict=True))
    return Said(_join(recalled), _join(answered), np.concatenate(looked))


def attention_columns(
    looked: Float[np.ndarray, "fact layer head position span"], subject: Int[np.ndarray, " fact"]
) -> dict[str, Any]:
    """Return means over the facts by layer, head, position and span, with intervals robust to facts of one subject.

    What comes after a position is left out: it cannot be attended to.
    """
    layer, head, position, span = (index.ravel() for index in np.indices(looked.shape[1:]))
    flat = looked.reshape(len(looked), -1)
    is_past = ~((np.array(list(POSITIONS))[position] == "relation") & (np.array(SPANS)[span] == "template"))
    mean, low, high = statistics.clustered_means(flat, subject)
    columns = {"layer": layer, "head": head, "mean": mean, "low": low, "high": high}
    columns |= {"position": np.array(list(POSITIONS))[position], "span": np.array(SPANS)[span]}
    return {name: column[is_past] for name, column in columns.items()} | {"n": len(looked)}


@lru_cache(maxsize=8)
def _network(config: DeepConfig, size: Sizes):
    return jax.jit(lambda parameters, prompts: read(config, size, parameters, prompts))


def answers(
    logits: Float[np.ndarray, "fact output"],
    answer: Int[np.ndarray, " fact"],
    attention: Float[np.ndarray, "fact 3"] | None = None,
) -> Answers:
    """Return the answers that these logits give; attention is NaN where none is given."""
    fact = np.arange(len(logits))
    right, predicted, mass = logits[fact, answer], logits.argmax(axis=1), logsumexp(logits, axis=1)
    probability = np.exp(logits[fact, predicted] - mass)
    rivals = logits.copy()
    rivals[fact, answer] = -np.inf
    looked = np.full((len(fact), 3), np.nan) if attention is None else attention
    no_salience = np.full(len(fact), np.nan)
    return Answers(predicted, right > rivals.max(axis=1), right - mass, probability, no_salience, looked)


def _join(parts: list[Answers]) -> Answers:
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _spans(
    attention: Float[np.ndarray, "fact layer head query key"],
) -> Float[np.ndarray, "fact layer head position span"]:
    seen = attention[..., list(POSITIONS.values()), :]
    subject = seen[..., :RELATION]
    return np.stack([subject.sum(axis=-1), subject[..., -1], seen[..., RELATION], seen[..., TEMPLATE]], axis=-1)


def _trace_columns(simulated: DeepRun) -> list[dict]:
    base = simulated.traces["base"]
    columns = [{"arm": "base", "step": base.step, "loss": base.loss, "accuracy": base.measured}]
    for arm in simulated.split.arms:
        trace = simulated.traces[arm]
        columns.append({"arm": arm, "step": trace.step, "loss": trace.loss} | trace.measured._asdict())
    return columns
