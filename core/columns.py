"""The columns of every result file, the same for both flows and the figures; what does not apply is null."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from core import factors

NAME = pa.dictionary(pa.int32(), pa.string())
BOOL, INT, SINGLE, DOUBLE = pa.bool_(), pa.int32(), pa.float32(), pa.float64()

# Double precision wherever a reader recomputes something exactly: ranks, exposure, and recall by critical attention.
FACTS = pa.schema(
    [
        ("arm", NAME),  # base, top, bottom, whole or random
        ("fact", INT),  # index into the fact store
        ("subject", NAME),  # what the question is about
        ("relation", NAME),  # what is asked of it
        ("answer", NAME),  # the right answer; of several accepted ones the first
        ("popularity", DOUBLE),  # in the source's own unit
        ("exposure", DOUBLE),  # expected number of pretraining draws
        ("knownness", DOUBLE),  # how well the base model knows the fact, the larger the better
        ("salience", SINGLE),  # the subject's value at the right answer
        ("predicted_salience", SINGLE),  # from exposure alone (R6)
        ("role", NAME),  # train, dev, held_out or background
        ("in_arm", BOOL),  # was this arm finetuned on it?
        ("correct", BOOL),  # is the answer right?
        ("base_correct", BOOL),  # does the base model recall the fact in a format that it knows?
        ("answer_probability", SINGLE),  # of the right answer
        ("answer_logprob", SINGLE),  # its logarithm, in nats
        ("predicted", NAME),  # the model's answer
        ("is_generic", BOOL),  # predicted is the relation's generic answer in the whole training set
        ("is_generic_arm", BOOL),  # the same in this arm's; null for the base
        ("generic_correct", BOOL),  # would that generic answer have been right?
        ("subject_attention", DOUBLE),  # where the answer is predicted; the mean over layers and heads
        ("relation_attention", DOUBLE),  # the same, on the relation
        ("template_attention", DOUBLE),  # the same, on the question's template
        ("critical_low", DOUBLE),  # recalled iff critical_low < subject's share < critical_high (R4)
        ("critical_high", DOUBLE),  # the upper end; low >= high: recalled at no share
        ("share_force", SINGLE),  # what the fact's own step does to the subject's share (R2)
        ("salience_threshold", SINGLE),  # the salience at which that force changes sign (R2)
        ("subject_attention_nonsink", DOUBLE),  # from here on: language models
        ("sink_attention", DOUBLE),  # on the first token
        ("exact_match", BOOL),  # the answer is an accepted one, both normalised
        ("substring_match", BOOL),  # PopQA's rule
        ("token_f1", SINGLE),  # SQuAD's, the best over accepted answers
        ("swapped_predicted", NAME),  # the answer when the subject is swapped for another of the relation
        ("knockout_drop", SINGLE),  # log-probability of the answer lost without attention to the subject, nats
        ("known_class", NAME),  # how well the base model knows the fact (Gekhman et al. 2024); null if not asked
        ("strict_match", BOOL),  # the answer is an accepted one to the letter
        ("squad_match", BOOL),  # SQuAD's exact match, to which C++ is C and 1.5 is 15
        ("predicted_probability", SINGLE),  # that the model gives just its answer, the end included; a letter's of four
        ("chosen_correct", BOOL),  # of its relation's answers, does the likeliest by first token begin an accepted one?
        ("chosen_correct_less_prior", BOOL),  # the same, less their log mean probability over the relation's others
        ("subject_value_attention", DOUBLE),  # the subject's share of ‖α v W_O‖, the mean over layers and heads
        ("answer_logprob_without_end", SINGLE),  # of the right answer's tokens without the end token, in nats
        ("knockout_drop_first", SINGLE),  # of knockout_drop what the answer's first token loses
        ("few_shot_correct", BOOL),  # of multiple choice: is the likeliest letter right after answered questions?
        ("swap_differs", BOOL),  # has the subject that is swapped in no accepted answer in common with the question?
    ]
)
"""One row per (arm, fact)."""

TRACE = pa.schema(
    [
        ("arm", NAME),  # base, top, bottom, whole or random
        ("step", INT),  # of pretraining (base) or finetuning
        ("loss", DOUBLE),  # training loss, the mean since the last record
        ("accuracy", DOUBLE),  # on the eval subset
        ("subject_attention", DOUBLE),  # on the eval subset
        ("subject_share", DOUBLE),  # of the attention on subject and relation
        ("predicted_subject_share", DOUBLE),  # R5, from the base model alone
        ("predicted_subject_attention", DOUBLE),  # the same for the attention itself
        ("predicted_accuracy", DOUBLE),  # on the eval subset: R5's attention put into R4, from the base model alone
    ]
)
"""One row per (arm, recorded step)."""

ATTENTION = pa.schema(
    [
        ("arm", NAME),  # base, top, bottom, whole or random
        ("layer", INT),  # from 0
        ("head", INT),  # from 0
        ("position", NAME),  # prompt_end predicts the answer's first token, first_answer is that token
        ("span", NAME),  # subject, relation, template or sink
        ("mean", DOUBLE),  # attention mass from the position to the span, over the questions that name their subject
        ("low", DOUBLE),  # lower end of the 95 % interval, over subjects
        ("high", DOUBLE),  # upper end
        ("n", INT),  # questions
        ("value_weighted", DOUBLE),  # the span's share of ‖α v W_O‖ over all tokens; null where it cannot be measured
        ("value_weighted_low", DOUBLE),  # lower end of the 95 % interval, over subjects
        ("value_weighted_high", DOUBLE),  # upper end
    ]
)
"""One row per (arm, layer, head, position, span) of a language model."""

MEDIATION = pa.schema(
    [
        ("receiver", NAME),  # arm whose model is given something
        ("donor", NAME),  # arm whose model gives it
        ("intervention", NAME),  # a patch (attention@subject), a graft (mlp), or receiver or donor as they are
        ("n", INT),  # held-out questions
        ("accuracy", DOUBLE),  # share whose true answer is the likeliest, token by token
        ("accuracy_low", DOUBLE),  # lower end of the 95 % interval, over subjects
        ("accuracy_high", DOUBLE),  # upper end
        ("logprob", DOUBLE),  # of the true answer, in nats, mean over questions
        ("share", DOUBLE),  # what moves, of the gap in accuracy to the donor; null where there is no gap
        ("share_low", DOUBLE),  # lower end of the 95 % interval, over subjects
        ("share_high", DOUBLE),  # upper end
        ("moved_variance", DOUBLE),  # of the mean change in accuracy, over subjects
        ("gap_variance", DOUBLE),  # of the gap, likewise
        ("covariance", DOUBLE),  # of both
        ("logprob_share", DOUBLE),  # the same of the gap in log-probability
        ("logprob_share_low", DOUBLE),  # lower end of its 95 % interval, over subjects
        ("logprob_share_high", DOUBLE),  # upper end
    ]
)
"""One row per (pair of arms, intervention) of a language model."""

RATES = pa.schema(
    [
        ("arm", NAME),  # whose facts were finetuned on, without remedies of its own
        ("learning_rate", DOUBLE),  # one of those tried
        ("fact", INT),  # held-out, as in facts.parquet
        ("correct", BOOL),  # is the answer right, after finetuning with seed 0? false where that diverged
    ]
)
"""One row per (arm, learning rate tried, held-out fact) of a language model, where several rates are tried."""

PREDICTIONS = pa.schema(
    [
        ("experiment", NAME),  # experiment, study or sweep
        ("seeds", INT),  # how many runs the row rests on
        ("result", NAME),  # R1 to R8, a to f, or the name of what is read with these
        ("statement", NAME),  # the result in a sentence
        ("arm", NAME),  # the arm, or the difference of two
        ("stratum", NAME),  # of the facts: fifth 1 (best known) to 5, third 1 to 3; or a learning rate; null for all
        ("predicted", DOUBLE),  # by the theory, before the measurement
        ("measured", DOUBLE),  # the mean over the units
        ("low", DOUBLE),  # lower end of the 95 % interval
        ("high", DOUBLE),  # upper end
        ("unit", NAME),  # what the interval counts: worlds, base models, questions by relation, questions by subject
        ("p_value", DOUBLE),  # two-sided
        ("error", DOUBLE),  # what the tolerance bounds: a distance, or a number of exceptions
        ("tolerance", DOUBLE),  # what the verdict allows it
        ("verdict", NAME),  # holds, fails, undecided or reported
        ("note", NAME),  # whatever else is to be known
        ("refuted_by", NAME),  # the observation that makes the verdict "fails"; null where nothing does
    ]
)
"""One row per statement of the theory beside what was measured."""

COVARIANCE = pa.schema(
    [
        ("pair", NAME),  # RECEIVER:DONOR of an intervention; null where the means are of arms
        ("quantity", NAME),  # accuracy, retention, generic_rate or subject_attention; or the intervention
        ("one", NAME),  # the arm; or moved, the change in accuracy, or gap
        ("other", NAME),  # the same of the other mean
        ("covariance", DOUBLE),  # of the two means over all splits, robust to clusters of questions that splits share
        ("clusters", INT),  # how many clusters of questions there are
    ]
)
"""One row per (pair, quantity, two means) of a collected study of one base model."""

SWEEP = pa.schema(
    [
        ("unit", pa.string()),  # identity of config and seeds
        ("config", NAME),  # the resolved config as canonical JSON
        ("pretrain_seed", INT),  # of world and base model
        ("split_seed", INT),  # of the split
        ("seed", INT),  # of finetuning
        ("arm", NAME),  # base, or what was finetuned on
        ("n_trained", INT),  # facts in the arm; null for the base
        ("n", INT),  # held-out facts measured
        ("accuracy", DOUBLE),  # on held-out facts
        ("trained_accuracy", DOUBLE),  # on the arm's own facts; null for the base
        ("retention", DOUBLE),  # of held-out facts recalled in the pretraining format, the share still answered
        ("generic_rate", DOUBLE),  # share of answers that are the relation's generic one
        ("loss", DOUBLE),  # held-out mean of -log p(answer)
        ("subject_attention", DOUBLE),  # mean over held-out facts
        ("relation_attention", DOUBLE),  # the same, on the relation
        ("template_attention", DOUBLE),  # the same, on the template
        ("subject_share", DOUBLE),  # of the attention on subject and relation
        ("predicted_subject_share", DOUBLE),  # R5, from the base model alone; null for the base
        ("predicted_subject_attention", DOUBLE),  # the same for the attention itself
        ("diverged_at", INT),  # first step of a diverged training; null where it was sound
    ]
)
"""One row per (config, seeds, arm) of a sweep."""

FACTORS = tuple(factor.name for factor in factors.FACTORS)
"""The properties of a world that the screen study varies, each a column."""
MEASURES = (
    *("accuracy", "retention", "unknown_accuracy", "generic_accuracy", "subject_attention"),
    *("generic_rate", "swap_invariance", "subject_attention_nonsink", "knockout_drop"),
)
"""What the screen study measures of an arm, each a column."""
_TEXT = pa.string()

SCREEN = pa.schema(
    [("part", _TEXT)]  # factorial, fine or recipe
    + [("series", _TEXT)]  # of fine the factor varied, of recipe the world; empty in factorial
    + [("world", _TEXT), ("config_hash", _TEXT)]
    + [("flow", _TEXT)]  # lm, or toy: the theory's model in the same world
    + [("method", _TEXT), ("learning_rate", DOUBLE), ("epochs", INT)]
    + [(name, DOUBLE) for name in FACTORS]
    + [("pretrain_seed", INT), ("seed", INT), ("arm", _TEXT), ("n", INT)]
    + [(name, DOUBLE) for name in MEASURES]
)
"""One row per (world, flow, seeds, arm) of the screen study."""

TABLES = {"facts": FACTS, "trace": TRACE, "attention": ATTENTION, "mediation": MEDIATION, "rates": RATES}
"""The tables of a run directory, by the name of their file."""


Columns = Mapping[str, Any]
"""Columns by name: arrays, lists, or scalars that fill their column."""


def table(columns: Columns, schema: pa.Schema) -> pa.Table:
    """Return the columns in the schema's order and types: absent ones are null, NaN is null, a scalar fills its column.

    `pa.DictionaryArray.from_arrays(codes, names)` spares a million strings. Raises KeyError for a column that the
    schema does not have, ValueError for columns of different lengths.
    """
    if unknown := sorted(set(columns) - set(schema.names)):
        raise KeyError(f"no such column: {', '.join(unknown)}")
    given = {name: _array(value) for name, value in columns.items()}
    lengths = [len(value) for value in given.values() if isinstance(value, pa.Array)]
    n_rows = lengths[0] if lengths else min(1, len(columns))
    return pa.Table.from_arrays([_column(given.get(field.name), field.type, n_rows) for field in schema], schema=schema)


def _array(value: Any) -> Any:
    """Return an Arrow array, or the value itself if it is a scalar."""
    if isinstance(value, pa.ChunkedArray):
        return value.combine_chunks()
    if isinstance(value, pa.Array) or value is None or np.ndim(value) == 0:
        return value
    return pa.array(value if isinstance(value, list) else np.asarray(value), from_pandas=True)


def _column(value: Any, kind: pa.DataType, n_rows: int) -> pa.Array:
    """Return the column in its type."""
    if isinstance(value, pa.Array):
        return value.cast(kind)
    scalar = value.item() if hasattr(value, "item") else value
    return pa.array([scalar], from_pandas=True).take(pa.repeat(0, n_rows)).cast(kind)
