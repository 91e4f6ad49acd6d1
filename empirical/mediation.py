"""What of a difference between two models moves with activations or weights that one is given of the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from core.console import note
from core.errors import InputError
from core.shares import DONOR, PATCHES, RECEIVER, Outcome
from empirical.evaluate import EvaluateConfig
from empirical.lm import batch, capture, graft, knockout, memory, patch, shape
from empirical.lm.batch import QuestionBatch
from empirical.lm.model import LanguageModel
from empirical.lm.patch import Patch, Scores
from empirical.lm.prompts import Encoded
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, uncounted

GRAFTS = (*graft.PARTS, "query_key+value_output", "value_output+mlp")
"""What is grafted where nothing else is said; a plus joins parts."""


@dataclass(frozen=True)
class MediationConfig:
    """What is put from one arm's model into another's, once all arms are finetuned."""

    pairs: tuple[str, ...] = ()
    """RECEIVER:DONOR, two of the study's arms each, as in bottom:top; none: no arm is given anything."""
    patches: tuple[str, ...] = PATCHES
    """Activations of the donor that the receiver gets, one after another: WHAT@WHERE, WHAT@WHERE:LAYERS or
    WHAT@WHERE:LAYERS:HEADS. WHAT is attention, value, mlp or layer; WHERE is subject, subject_last, end or all; a plus
    joins several."""
    windows: int = 1
    """Give each of them in so many windows of neighbouring layers too, one at a time; 1: in all layers alone."""
    grafts: tuple[str, ...] = GRAFTS
    """Weights of the donor that the receiver gets, one after another: query_key, value_output, mlp, norms, embeddings;
    a plus joins some."""

    @property
    def arms(self) -> set[str]:
        """The arms in pairs."""
        return {arm for pair in self.pairs for arm in pair.split(":")}


def check_config(config: MediationConfig, arms: Sequence[str]) -> None:
    """Raise InputError for a pair that is not two of the arms, or an intervention that there is not."""
    for pair in config.pairs:
        if len(set(pair.split(":"))) != 2 or pair.count(":") != 1 or not set(pair.split(":")) <= set(arms):
            raise InputError(
                f"--mediation.pairs {pair}: it must be RECEIVER:DONOR, two of the study's arms: {', '.join(arms)}."
            )
    for part in "+".join(config.patches).split("+") if config.patches else ():
        Patch.parse(part)
    if config.windows < 1:
        raise InputError(f"--mediation.windows is {config.windows}: it must be at least 1.")
    check_grafts(config.grafts)


class Asked(NamedTuple):
    """What every outcome is measured by."""

    config: EvaluateConfig
    encoded: Sequence[Encoded]
    done: Done = uncounted
    """Counts questions."""


Intervention = Callable[[LanguageModel, LanguageModel, Asked], Outcome]
"""Given receiver and donor."""


def check(receiver: LanguageModel, donor: LanguageModel) -> None:
    """Raise InputError if one cannot be given what the other has."""
    graft.check_alike(receiver.network, donor.network)
    if receiver.tokenizer.get_vocab() != donor.tokenizer.get_vocab():
        raise InputError(
            f"{receiver.name} and {donor.name} have different tokenizers: their tokens do not stand for each other.\n"
            "Name two models that were finetuned from the same base."
        )


def windows(n_layers: int, n: int) -> list[tuple[int, ...]]:
    """Return the layers in so many neighbouring groups, as equal as can be; InputError for more than there are."""
    if not 1 <= n <= n_layers:
        raise InputError(f"--windows is {n}: it must be 1 to {n_layers}, the number of layers.")
    return [tuple(int(layer) for layer in part) for part in np.array_split(np.arange(n_layers), n)]


def say_where(model: LanguageModel) -> None:
    """Say in which layers there is no attention to be cut or given, if there are any."""
    if absent := capture.without_attention(model.network):
        note(
            f"{model.name}: attention is cut and given in the layers that have it alone. Layers "
            f"{', '.join(map(str, absent))} keep a state in its place: in these nothing changes, and what they carry "
            "from the subject stays."
        )


def named(layers: Sequence[int]) -> str:
    """Return neighbouring layers as text."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])


def check_grafts(what: Sequence[str]) -> None:
    """Raise InputError for a part that there is not."""
    if unknown := {part for text in what for part in text.split("+")} - set(graft.PARTS):
        raise InputError(f"there is no part {min(unknown)!r} of a model; there are {', '.join(graft.PARTS)}.")


def in_windows(model: LanguageModel, what: Sequence[str], n_windows: int) -> list[str]:
    """Return these patches and each of them in every window of layers; InputError for one that the model cannot get."""
    parts = [Patch.parse(part) for part in "+".join(what).split("+")]
    for part in parts:
        patch.check(model.network, part)
    if any(part.what == "attention" for part in parts):
        say_where(model)
    if n_windows == 1:
        return list(what)
    if placed := [text for text in what if ":" in text]:
        raise InputError(f"{placed[0]} names its layers already.\nLeave them out, or the windows.")
    n_layers = shape.n_layers(model.network)
    places = map(named, windows(n_layers, n_windows))
    return [*what, *(f"{text.replace('+', f':{layers}+')}:{layers}" for layers in places for text in what)]


def interventions(config: MediationConfig, model: LanguageModel) -> dict[str, Intervention]:
    """Return what a config asks for, by name; InputError for what this model cannot get."""
    patches = in_windows(model, config.patches, config.windows) if config.patches else []
    return {what: partial(patched, what) for what in patches} | {what: partial(grafted, what) for what in config.grafts}


def outcomes(
    receiver: LanguageModel,
    donor: LanguageModel,
    tried: Mapping[str, Intervention],
    asked: Asked,
    *,
    pieces: Pieces = UNKEPT,
    told: Callable[[str, int], object] = lambda doing, n: None,
) -> dict[str, Outcome]:
    """Return the outcomes of both models, and of the receiver under each intervention, by name.

    Args:
        pieces: What has been asked already.
        told: Called with what is being done, and how many more questions were asked.
    """

    def kept(name: str, make: Callable[[Asked], Outcome]) -> Outcome:
        counting = asked._replace(done=partial(told, name))
        arrays = pieces.arrays(name, lambda: vars(make(counting)), found=partial(told, name, len(asked.encoded)))
        return Outcome(**arrays)

    both = {RECEIVER: receiver, DONOR: donor}
    own = {name: kept(name, partial(plain, model)) for name, model in both.items()}
    return own | {name: kept(name, partial(make, receiver, donor)) for name, make in tried.items()}


def plain(model: LanguageModel, asked: Asked) -> Outcome:
    """Return a model's own outcome."""
    return _each(model, asked, lambda questions: patch.scores(model.network, questions))


def patched(what: str, receiver: LanguageModel, donor: LanguageModel, asked: Asked) -> Outcome:
    """Return the receiver's outcome under patches of the donor's activations.

    Args:
        what: One patch, or several at once with a plus between (`Patch.parse`).

    Raises:
        InputError: there is no such patch.
    """
    patches = [Patch.parse(text) for text in what.split("+")]

    def scoring(questions: QuestionBatch) -> Scores:
        return patch.scores(receiver.network, questions, patches, donor=donor.network)

    return _each(receiver, asked, scoring)


def grafted(
    what: str,
    receiver: LanguageModel,
    donor: LanguageModel,
    asked: Asked,
    *,
    layers: Sequence[int] | None = None,
    share: float = 1.0,
) -> Outcome:
    """Return the receiver's outcome with weights of the donor.

    Args:
        what: One of `graft.PARTS`, or several with a plus between.

    Raises:
        InputError: there is no such part.
    """
    with graft.grafted(receiver.network, donor.network, what.split("+"), layers=layers, share=share):
        return plain(receiver, asked)


def cut(
    model: LanguageModel,
    layers: Sequence[int] | None,
    asked: Asked,
) -> Float[np.ndarray, " question"]:
    """Return the true answers' log-probability where the prompt's end may not look at the subject in these layers.

    Args:
        layers: None: nothing is cut.
    """

    def scoring(questions: QuestionBatch) -> Scores:
        edges = None if layers is None else questions.spans[:, 0]
        logprob = knockout.logprob(model.network, questions, cut=edges, layers=layers)
        return Scores(logprob, torch.zeros(len(logprob), dtype=torch.bool))

    return _each(model, asked, scoring).logprob


def _each(model: LanguageModel, asked: Asked, scoring: Callable[[QuestionBatch], Scores]) -> Outcome:
    """Return the outcome of all questions, read in batches."""
    config, encoded, done = asked
    lengths = [len(question.tokens) for question in encoded]
    scored = [len(question.completion) for question in encoded]
    tokens = memory.tokens(model.network, config.batch_tokens, lengths, scored, rows=config.batch_size)
    batches = batch.of_like_length(lengths, rows=config.batch_size, tokens=tokens)
    logprob, is_right = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=bool)
    for rows in batches:
        scored = scoring(batch.of_questions([encoded[row] for row in rows], model.pad))
        logprob[rows], is_right[rows] = scored.logprob.double().numpy(), scored.is_right.numpy()
        done(len(rows))
    return Outcome(logprob, is_right)
