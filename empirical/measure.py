"""Everything that is measured of one model on one set of questions, as the columns of the result files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from core import statistics
from core.arms import CLASSES
from core.columns import Columns
from core.console import note
from core.facts.record import Fact
from core.split import ROLES
from empirical import attention, choice, evaluate, processes
from empirical.evaluate import EvaluateConfig
from empirical.lm import batch, capture, completion, memory, scores
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.lm.reading import Reading
from empirical.lm.shape import Model
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, Progress, counter, part, silent


@dataclass(frozen=True, eq=False)
class Said:
    """What the base model says of training facts, in a format that it knows."""

    asked: Bool[np.ndarray, " fact"]
    """Which facts these are; of all others nothing is known here."""
    recalled: Bool[np.ndarray, " fact"]
    texts: Sequence[str]
    """Its greedy answers; empty where it has none, or was not asked for any."""


@dataclass(frozen=True, eq=False)
class Questions:
    """The facts of a study as the models see them, and what the split and the base model say of each."""

    facts: Sequence[Fact]
    encoded: Sequence[Encoded]
    subject: Int[np.ndarray, " fact"]
    relation: Int[np.ndarray, " fact"]
    knownness: Float[np.ndarray, " fact"]
    role: Int[np.ndarray, " fact"]
    held_out: Int[np.ndarray, " test"]
    """Rows of the tested facts."""
    base_correct: Bool[np.ndarray, " test"]
    """Which tested facts the base model recalls in a format it knows."""
    generic: Mapping[str, str]
    """Each relation's most frequent first answer among all training facts."""
    seed: int
    """Random seed of the subjects that are swapped in."""
    known_class: Int[np.ndarray, " fact"] | None = None
    """Index into `core.arms.CLASSES`; None where facts were not sorted."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know of these questions, asked of this model."""
    said: Said | None = None
    """None where no arm needs it."""
    n_half: int | None = None
    """Number of training facts in the top half; None where there is no split."""
    shots: Sequence[Sequence[Fact]] = ()
    """Answered questions before each tested one of multiple choice, when it is asked a second time."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One arm's results."""

    metrics: dict[str, float | int | None]
    facts: Columns
    attention: Columns
    by_question: Float[np.ndarray, "question layer head span"]


def arm(
    name: str,
    model: LanguageModel,
    questions: Questions,
    own: Int[np.ndarray, " _"] | None,
    config: EvaluateConfig,
    *,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> Measured:
    """Return what the arm's model does: on held-out facts everything, on the arm's own facts the answers.

    Args:
        own: Rows that the arm was finetuned on; None for the base model.
        pieces: What is measured already.
    """
    test = questions.held_out
    facts, encoded = _take(questions.facts, test), _take(questions.encoded, test)
    is_choice = evaluate.are_choices(facts)
    if refused := capture.refusal(model.network):
        note(f"Attention and knockout are null: {str(refused).splitlines()[0]}")
        seen = attention.unseen
    else:
        seen = partial(attention.seen, grams=capture.weighing(model.network))

    options = None if is_choice else choice.options(questions.facts, questions.encoded)
    first = options and options.tokens

    def look(given: Reading) -> dict[str, np.ndarray]:
        return evaluate.asked(config, model, given, is_choice=is_choice, first=first) | seen(model, given)

    done = counter(part(progress, "answers and attention", 0.0, 0.6), len(test))
    found = evaluate.each(config, model, encoded, look, pieces=pieces.under("held_out"), done=done)
    answers, mass, value_mass = evaluate.scored(model, facts, found), found["mass"], found["value_mass"]
    done = counter(part(progress, "swapped subjects", 0.6, 0.8), len(test))
    swapped = _swapped(config, model, facts, questions.seed, pieces.under("swapped"), done)
    generic = questions.generic if own is None else generic_answers(_take(questions.facts, own))
    columns = _fact_columns(name, questions, test, answers) | {
        "is_generic": _is(answers.predicted, facts, questions.generic),
        "is_generic_arm": None if own is None else _is(answers.predicted, facts, generic),
        "generic_correct": [scores.exact_match(generic.get(fact.relation, ""), fact.answers) for fact in facts],
        "base_correct": questions.base_correct,
        "in_arm": False,
        **swapped,
        **{name: found[name] for name in attention.DROPS},
    }
    columns |= attention.columns(mass[:, 0], value_mass[:, 0], encoded)
    if options is not None:
        columns |= choice.columns(model, facts, encoded, options, found["first_logprob"])
    if any(questions.shots):
        done = counter(part(progress, "after examples", 0.6, 0.8), len(test))
        columns["few_shot_correct"] = evaluate.after_examples(config, model, facts, questions.shots, done=done)
    metrics = _metrics(columns, questions, mass[:, 0], encoded)
    if own is not None:
        trained = _take(questions.facts, own), _take(questions.encoded, own)
        kept: dict[str, Any] = {"pieces": pieces.under("own")}
        kept["progress"] = part(progress, "answers to the arm's own questions", 0.8, 1.0)
        own_answers = evaluate.answer(config, model, *trained, **kept)
        metrics |= {"train_accuracy": float(own_answers.exact_match.mean()), "n_trained": len(own)}
    table = {} if refused else attention.table(name, mass, value_mass, encoded, questions.subject[test])
    return Measured(metrics, columns, table, mass[:, 0].astype(np.float16))


def generic_answers(facts: Sequence[Fact]) -> dict[str, str]:
    """Return each relation's most frequent first answer, of equally frequent ones the first in the alphabet."""
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        counts.setdefault(fact.relation, Counter())[fact.answers[0]] += 1
    return {relation: min(count, key=lambda text, c=count: (-c[text], text)) for relation, count in counts.items()}


def abstention(facts: Columns, text: str) -> dict[str, float | None]:
    """Return how often a model says this in place of an answer, and its accuracy where it does not.

    Args:
        facts: The columns `predicted` and `correct` of held-out questions.
    """
    abstains = np.array([scores.exact_match(said, (text,)) for said in facts["predicted"]], dtype=bool)
    answered = np.asarray(facts["correct"])[~abstains]
    return {"abstention_rate": float(abstains.mean()), "answered_accuracy": _mean(answered)}


def eval_subset(network: Model, encoded: Sequence[Encoded], pad: int, *, tokens: int | None = None) -> dict[str, float]:
    """Return accuracy (every answer token the most likely one) and mean subject attention, for the trace.

    Attention that cannot be measured is nan.

    Args:
        tokens: Most tokens that are read at once, padding included; None: what memory holds (`memory.tokens`).
    """
    network.eval()
    is_seen = capture.refusal(network) is None
    lengths = [len(question.tokens) for question in encoded]
    n_right, subject, n_named = 0, 0.0, 0
    scored = [len(question.completion) for question in encoded]
    # Of a model that is shared out, every process makes the same passes.
    limit = processes.least(memory.tokens(network, tokens, lengths, scored, rows=len(encoded)))
    for rows in batch.of_like_length(lengths, rows=len(encoded), tokens=limit):
        own = [encoded[row] for row in sorted(rows)]
        questions, named = batch.of_questions(own, pad), sum(question.has_subject for question in own)
        n_right += int(completion.most_likely(network, questions, questions.completion).sum())
        if named and is_seen:
            subject += named * attention.to_subject(network, questions, [question.has_subject for question in own])
            n_named += named
    return {
        "accuracy": n_right / len(encoded),
        "subject_attention": subject / n_named if n_named else float("nan"),
    }


def _fact_columns(
    name: str, questions: Questions, rows: Int[np.ndarray, " row"], answers: evaluate.Answers
) -> dict[str, Any]:
    facts = _take(questions.facts, rows)
    return {
        "arm": name,
        "fact": rows,
        "subject": [fact.subject for fact in facts],
        "relation": [fact.relation for fact in facts],
        "answer": [fact.answers[0] for fact in facts],
        "popularity": [fact.popularity for fact in facts],
        "knownness": questions.knownness[rows],
        "known_class": None if questions.known_class is None else [CLASSES[i] for i in questions.known_class[rows]],
        "role": [ROLES[code] for code in questions.role[rows]],
        "correct": answers.exact_match,
        "answer_probability": np.exp(answers.logprob),
        "answer_logprob": answers.logprob,
        "answer_logprob_without_end": answers.text_logprob,
        "predicted": answers.predicted,
        "predicted_probability": answers.predicted_probability,
    } | answers.by_rule


def _metrics(
    columns: Mapping,
    questions: Questions,
    mass: Float[np.ndarray, "question layer head span"],
    encoded: Sequence[Encoded],
) -> dict[str, float | int | None]:
    """Return the report's numbers of an arm, on held-out facts."""
    correct, subject = np.asarray(columns["correct"]), questions.subject[questions.held_out]
    accuracy = statistics.clustered_interval(correct, subject, seed=0)
    wrong, known = ~correct, np.asarray(questions.base_correct)
    generic = columns["is_generic_arm"] if columns["is_generic_arm"] is not None else columns["is_generic"]
    generic = np.asarray(generic)
    generic_wrong = statistics.clustered_interval(generic[wrong], subject[wrong], seed=0) if wrong.any() else None
    names = ("predicted", "swapped_predicted", "swap_differs")
    swaps = [
        (scores.normalise(own) == scores.normalise(other), differs)
        for own, other, differs in zip(*(columns[name] for name in names), strict=True)
        if other is not None
    ]
    differing = [stays for stays, differs in swaps if differs]
    confidence = np.asarray(columns["predicted_probability"])
    return {
        **_with_ends("accuracy", accuracy),
        "retention": _mean(correct[known]),
        "unknown_accuracy": _mean(correct[~known]),
        "n_recalled": int(known.sum()),
        "generic_accuracy": _mean(columns["generic_correct"]),
        "generic_rate": _mean(generic),
        **_with_ends("generic_rate_wrong", generic_wrong),
        "swap_invariance": _mean([stays for stays, _ in swaps]),
        "swap_invariance_differing": _mean(differing),
        "n_swaps": len(swaps),
        "n_swaps_differing": len(differing),
        **{rule: _share(columns[rule]) for rule in evaluate.RULES},
        "few_shot_accuracy": _mean(columns.get("few_shot_correct", ())),
        "choice_accuracy": _share(columns.get("chosen_correct", ())),
        "choice_accuracy_less_prior": _share(columns.get("chosen_correct_less_prior", ())),
        "loss": float(-np.mean(columns["answer_logprob"])),
        "loss_without_end": float(-np.mean(columns["answer_logprob_without_end"])),
        "ece": statistics.calibration_error(confidence, correct),
        "average_precision": statistics.average_precision(confidence, correct) if correct.any() else None,
        **{name: _nanmean(np.asarray(columns[name])) for name in attention.DROPS},
        **{f"{span}_attention": _nanmean(columns[f"{span}_attention"]) for span in capture.SPANS},
        **{name: _nanmean(columns[name]) for name in ("subject_attention_nonsink", "subject_value_attention")},
        "n": len(correct),
    }


def _with_ends(name: str, found: statistics.Interval | None) -> dict[str, float | None]:
    """Return a metric with the ends of its 95 % interval; null where there is none."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found or (None,) * 3, strict=True))


def _mean(values: Sequence | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _share(values: Sequence) -> float | None:
    """Return the mean of the values that there are."""
    return _mean([value for value in values if value is not None])


def _nanmean(values: np.ndarray) -> float | None:
    return _mean(values[~np.isnan(values)])


def _is(predicted: Sequence[str], facts: Sequence[Fact], generic: Mapping[str, str]) -> list[bool]:
    """Return whether each prediction is its relation's generic answer."""
    pairs = zip(predicted, facts, strict=True)
    return [
        fact.relation in generic and scores.normalise(text) == scores.normalise(generic[fact.relation])
        for text, fact in pairs
    ]


def _swapped(
    config: EvaluateConfig, model: LanguageModel, facts: Sequence[Fact], seed: int, pieces: Pieces, done: Done
) -> dict[str, list[Any]]:
    """Return what the model answers about another subject of the relation, and whether that should be another answer.

    None where there is no other subject.
    """
    others = evaluate.swapped(facts, seed=seed)
    rows = [row for row, other in enumerate(others) if other is not None]
    swapped_facts = [other for other in others if other is not None]
    encoded = model.format.ask(swapped_facts, new_tokens=config.max_new_tokens) if swapped_facts else []
    texts = evaluate.predict(config, model, swapped_facts, encoded, pieces=pieces, done=done)
    answers: list[str | None] = [None] * len(facts)
    for row, text in zip(rows, texts, strict=True):
        answers[row] = text
    differs = [
        None if other is None else not evaluate.is_alike(fact, other) for fact, other in zip(facts, others, strict=True)
    ]
    return {"swapped_predicted": answers, "swap_differs": differs}


def _take(rows: Sequence, chosen: Int[np.ndarray, " _"]) -> list:
    return [rows[row] for row in chosen]
