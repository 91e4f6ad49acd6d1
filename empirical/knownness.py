"""How well the base model knows each fact: its popularity, or what the model makes of few-shot prompts.

The examples before a question come from facts that may be trained on, never from the held-out ones, and are the same
for all facts of a relation that they do not give away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from core.config_json import setting
from core.errors import InputError
from core.facts.record import Fact
from empirical import exemplars, processes
from empirical.exemplars import Shown
from empirical.lm import generate, multiple_choice, scores
from empirical.lm.model import LanguageModel
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, Progress, counter, part, silent

CHOICE_SHOTS = 5
"""Answered questions before one of multiple choice, as in Hendrycks et al. 2021."""


@dataclass(frozen=True)
class KnownnessConfig:
    """What ranks the facts before finetuning, and how the base model is asked."""

    measure: Literal["popularity", "logprob", "greedy", "sampled"] = "popularity"
    """`popularity`: as the source gives it. The others ask the base model after a few examples. `logprob`: the answer's
    log-probability per token (multiple choice: how far the right letter is ahead of the best other one). `greedy`: how
    often the most probable answer is right. `sampled`: the same, ties broken by how often a random answer is right."""
    shots: int = 4
    """Number of answered questions before the one that is asked (multiple choice: always 5)."""
    n_prompts: int = 4
    """Number of few-shot prompts, each with other examples, over which a score is averaged (multiple choice: 1)."""
    samples: int = 8
    """Number of random answers to each prompt (only for the measure `sampled`)."""
    temperature: float = 0.5
    """Temperature at which random answers are drawn, above 0; the default is that of Gekhman et al. 2024."""
    classes: bool = setting(False, is_later=True)
    """Sort the facts into the four classes of Gekhman et al. (2024) too, whatever ranks them: `n_prompts` greedy and
    `samples` random answers to each; the measure `sampled` does so by itself."""
    max_new_tokens: int = setting(16, is_later=True)
    """Number of tokens after which an answer is cut (measures `greedy` and `sampled`)."""
    batch_size: int = 64
    """Number of questions that the model reads at once."""
    batch_tokens: int | None = setting(None, is_later=True)
    """Number of tokens that the model holds at once, those of the examples too: fewer questions where they are long.
    Not given: 16,384, or fewer where the free memory holds fewer."""

    @property
    def at_once(self) -> dict[str, int | None]:
        """The settings of how much is read at once, by name."""
        return {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}

    @property
    def gives_classes(self) -> bool:
        """Whether facts are sorted into classes."""
        return self.classes or self.measure == "sampled"


@dataclass(frozen=True, eq=False)
class Scores:
    """The knownness of each fact, the larger the better known, and its class where answers were sampled."""

    value: Float[np.ndarray, " fact"]
    """By measure: the source's unit; nats, at most 0 (a letter's margin: of either sign); share of right answers, 0 to
    1; the same plus at most half a prompt's share."""
    known_class: Int[np.ndarray, " fact"] | None
    """Index into `core.arms.CLASSES`."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what there is, by name, to be stored."""
        return {"value": self.value} | ({} if self.known_class is None else {"known_class": self.known_class})


def score(
    config: KnownnessConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    pool: Sequence[Fact],
    *,
    seed: int | None,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> Scores:
    """Return how well each fact is known.

    Args:
        pool: Facts that examples may be taken from: none that is held out.
        seed: None, for multiple choice alone: examples in the pool's order.
        pieces: What is scored already, prompt by prompt and relation by relation.

    Raises:
        InputError: a setting out of range, a fact without popularity, a pool too small, a measure that does not fit
            multiple choice.
    """
    check(config)
    check_facts(config, facts)
    if config.classes and config.measure != "sampled":
        inputs = (model, facts, pool)
        ranked, drawn = (replace(config, classes=False, measure=measure) for measure in (config.measure, "sampled"))
        kept = pieces.under("ranked"), pieces.under("classes")
        value = score(ranked, *inputs, seed=seed, pieces=kept[0], progress=part(progress, "", 0.0, 0.15)).value
        told = part(progress, "classes", 0.15, 1.0)
        classes = score(drawn, *inputs, seed=seed, pieces=kept[1], progress=told).known_class
        return Scores(value, classes)
    if config.measure == "popularity":
        return Scores(popularity(facts), None)
    if facts[0].choices:
        chosen = exemplars.choose(facts, pool, CHOICE_SHOTS, seed=seed)
        options: dict[str, Any] = {"done": counter(progress, len(facts))} | config.at_once
        logprobs = multiple_choice.answer(model, facts, chosen, **options)
        return Scores(multiple_choice.margin(logprobs, facts), None)
    assert seed is not None
    n_texts = len(facts) * config.n_prompts * (1 + config.samples if config.measure == "sampled" else 1)
    shown = exemplars.prompts(model, facts, pool, shots=config.shots, n=config.n_prompts, seed=seed)
    inputs = (config, model, facts, shown, pieces, counter(progress, n_texts))
    if config.measure == "logprob":
        return Scores(_logprob(*inputs), None)
    greedy, sampled = _correctness(*inputs, seed)
    if config.measure == "greedy":
        return Scores(greedy, None)
    return Scores(greedy + sampled / (2 * config.n_prompts), classify(greedy, sampled))


def answers(
    config: KnownnessConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    pool: Sequence[Fact],
    *,
    seed: int | None,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> list[str]:
    """Return the model's greedy answer to each fact's question after the examples of the first prompt.

    Args:
        pool: Facts that examples may be taken from: none that is held out.
        pieces: What is answered already, relation by relation.

    Raises:
        InputError: a pool too small.
    """
    said, told, done = [""] * len(facts), {}, counter(progress, len(facts))
    settings: dict[str, Any] = {"pad": model.pad, "stop": model.format.stop, "done": done} | config.at_once
    settings["max_new_tokens"] = config.max_new_tokens
    shown = exemplars.prompts(model, facts, pool, shots=config.shots, n=1, seed=seed)
    for number, (rows, prompts) in processes.share(shown):
        asked = [one.prompt for one in model.format.encode(prompts, new_tokens=config.max_new_tokens)]

        def texts(asked: list[tuple[int, ...]] = asked) -> np.ndarray:
            tokens = generate.greedy(model.network, asked, **settings)
            return np.array(generate.decode(model.tokenizer, tokens))

        found = pieces.array(f"answers_{number}", texts, found=partial(done, len(rows)))
        told[number] = rows, found.tolist()
    for rows, texts_of in processes.gathered(told):
        for row, text in zip(rows, texts_of, strict=True):
            said[row] = text
    return said


def check(config: KnownnessConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    least = {"shots": 0, "n_prompts": 1, "samples": 1, "max_new_tokens": 1, "batch_size": 1, "batch_tokens": 1}
    for name, low in least.items():
        if (value := getattr(config, name)) is not None and value < low:
            raise InputError(f"--knownness.{name.replace('_', '-')} is {value}: it must be at least {low}.")
    if not 0 < config.temperature < np.inf:
        raise InputError(f"--knownness.temperature is {config.temperature}: it must be above 0.")


def check_facts(config: KnownnessConfig, facts: Sequence[Fact]) -> None:
    """Raise InputError if these facts cannot be ranked by this measure."""
    n_missing = sum(fact.popularity is None for fact in facts)
    if config.measure == "popularity" and n_missing:
        raise InputError(
            f"{n_missing} of {len(facts)} facts have no popularity to rank them by.\n"
            "Let the base model say how well it knows them: --knownness.measure logprob."
        )
    n_choices = sum(bool(fact.choices) for fact in facts)
    if config.classes and n_choices:
        raise InputError("--knownness.classes: questions of multiple choice have none.\nLeave the flag.")
    if config.measure != "popularity" and n_choices and (config.measure != "logprob" or n_choices < len(facts)):
        raise InputError(
            f"{n_choices} of {len(facts)} questions are multiple choice, scored by letter and apart from others.\n"
            "Use --knownness.measure logprob, and facts of one kind."
        )


def needs_examples(config: KnownnessConfig, facts: Sequence[Fact]) -> bool:
    """Return whether facts that may be trained on are needed, to be shown before those that are scored."""
    if config.measure == "popularity" and not config.classes:
        return False
    return config.shots > 0 or any(fact.choices for fact in facts)


def popularity(facts: Sequence[Fact]) -> Float[np.ndarray, " fact"]:
    """Return the facts' popularity, which each must have (`check_facts`)."""
    return np.array([fact.popularity for fact in facts], dtype=float)


def classify(greedy: Float[np.ndarray, " fact"], sampled: Float[np.ndarray, " fact"]) -> Int[np.ndarray, " fact"]:
    """Return each fact's class by its shares of right answers, greedy and sampled (Gekhman et al. 2024, table 1).

    An index into `core.arms.CLASSES`: greedy always right; sometimes; never, but sampled sometimes; else unknown.
    """
    return np.select([greedy == 1, greedy > 0, sampled > 0], [0, 1, 2], default=3)


def rank_correlation(popularity: Float[np.ndarray, " fact"], value: Float[np.ndarray, " fact"]) -> float:
    """Return Spearman's correlation over the facts where neither is nan; nan where it is not defined.

    It is not with fewer than two such facts, or where either is the same for all of them.
    """
    known = ~(np.isnan(popularity) | np.isnan(value))
    if min(len(np.unique(popularity[known])), len(np.unique(value[known]))) < 2:
        return float("nan")
    return float(stats.spearmanr(popularity[known], value[known]).statistic)  # type: ignore


def _logprob(
    config: KnownnessConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    shown: Shown,
    pieces: Pieces,
    done: Done,
) -> Float[np.ndarray, " fact"]:
    """Return the log-probability per token of each fact's first answer, in nats, the mean over the prompts."""
    value, found = np.zeros(len(facts)), {}
    settings: dict[str, Any] = {"pad": model.pad, "done": done} | config.at_once
    for number, (rows, prompts) in processes.share(shown):
        # Without the end token: after the examples it is a line break that ends an answer.
        encoded = model.format.encode(prompts)
        asked = [e.prompt for e in encoded], [e.completion[:-1] for e in encoded]
        make = partial(generate.answer_logprob, model.network, *asked, **settings)
        total = pieces.array(f"logprob_{number}", make, found=partial(done, len(rows)))
        found[number] = rows, total / [len(answer) for answer in asked[1]]
    for rows, mean in processes.gathered(found):
        value[rows] += mean
    return value / config.n_prompts


def _correctness(
    config: KnownnessConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    shown: Shown,
    pieces: Pieces,
    done: Done,
    seed: int,
) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]]:
    """Return the shares of right answers over the prompts: greedy, and sampled (zero where nothing is sampled)."""
    n_greedy, n_sampled = np.zeros((2, len(facts)))
    settings: dict[str, Any] = {"pad": model.pad, "done": done} | config.at_once
    settings |= {"stop": model.format.stop, "max_new_tokens": config.max_new_tokens}
    draws, found = np.random.default_rng([seed, 11]), {}
    groups = ((group, int(draws.integers(2**63))) for group in shown)
    for number, ((rows, prompts), drawn_by) in processes.share(groups):
        encoded = model.format.encode(prompts, new_tokens=config.max_new_tokens)

        def right(kind: str, says: Callable, n: int, rows=rows, encoded=encoded, number=number, **more: Any) -> Any:
            """Return how many of n answers to each question are right."""
            ids, own = [e.prompt for e in encoded] * n, [facts[row] for row in rows] * n
            make = partial(_right, model, own, says, ids, **settings, **more)
            is_right = pieces.array(f"{kind}_{number}", make, found=partial(done, len(own)))
            return is_right.reshape(n, len(rows)).sum(axis=0)

        n_right = [right("greedy", generate.greedy, 1), 0]
        if config.measure == "sampled":
            chance = {"temperature": config.temperature, "seed": drawn_by}
            n_right[1] = right("sampled", generate.sample, config.samples, **chance)
        found[number] = rows, *n_right
    for rows, greedy, sampled in processes.gathered(found):
        n_greedy[rows] += greedy
        n_sampled[rows] += sampled
    return n_greedy / config.n_prompts, n_sampled / (config.n_prompts * config.samples)


def _right(
    model: LanguageModel,
    facts: Sequence[Fact],
    says: Callable[..., list[list[int]]],
    ids: Sequence[Sequence[int]],
    **settings: Any,
) -> Bool[np.ndarray, " fact"]:
    texts = generate.decode(model.tokenizer, says(model.network, ids, **settings))
    return np.array([scores.exact_match(text, fact.answers) for text, fact in zip(texts, facts, strict=True)])
