"""The base model asked before finetuning: how well it knows each fact, and which it recalls."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from core import config_json
from core.facts.record import Fact
from empirical import knownness
from empirical.config import Config
from empirical.knownness import KnownnessConfig
from empirical.lm import completion, identity
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.pieces import Pieces
from empirical.progress import Progress


@dataclass(frozen=True, eq=False)
class Asking:
    """One base model and split; what the model answers is kept, piece by piece and whole."""

    config: Config
    model: LanguageModel
    base: ModelConfig
    """Where the model is."""
    examples: list[Fact]
    """Facts that few-shot examples are taken from."""
    out: Path
    seed: int | None
    """None: examples are shown in their own order."""

    def scores(self, settings: KnownnessConfig, facts: Sequence[Fact], progress: Progress) -> knownness.Scores:
        """Return how well each of these facts is known."""
        inputs = (self.model, facts, self.examples)
        if settings.measure == "popularity" and not settings.classes:
            return knownness.score(settings, *inputs, seed=self.seed, progress=progress)

        def score(pieces: Pieces) -> dict[str, np.ndarray]:
            return knownness.score(settings, *inputs, seed=self.seed, pieces=pieces, progress=progress).arrays()

        kept = self._kept(settings, facts, score)
        return knownness.Scores(kept["value"], kept.get("known_class"))

    def recalled(self, tested: Sequence[Fact], progress: Progress) -> Bool[np.ndarray, " test"]:
        """Return which facts the model recalls: our own most of their sentences, another after few examples.

        Of multiple choice: those whose right letter is the most likely one after examples.
        """
        is_choice = bool(tested[0].choices)
        if self.config.pretrains and not is_choice:
            n_paraphrases = self.config.world.paraphrases
            share = completion.recall(self.model.network, self.model.tokenizer, tested, n_paraphrases=n_paraphrases)
            return share >= 0.5
        asked = replace(
            self.config.knownness,
            measure="logprob" if is_choice else "greedy",
            classes=False,
            max_new_tokens=self.config.evaluate.max_new_tokens,
        )
        value = self.scores(asked, tested, progress).value
        return value > 0 if is_choice else value >= 0.5

    def answers(self, asked: Sequence[Fact], progress: Progress) -> list[str]:
        """Return the model's greedy answers: our own completes a sentence about each fact, another answers a question.

        The question comes after few examples, those of the first prompt that scores knownness.
        """
        n_tokens = self.config.evaluate.max_new_tokens
        if self.config.pretrains:
            n_paraphrases = self.config.world.paraphrases
            return completion.answers(self.model, asked, n_paraphrases=n_paraphrases, max_new_tokens=n_tokens)
        settings = replace(self.config.knownness, max_new_tokens=n_tokens)

        def answer(pieces: Pieces) -> dict[str, np.ndarray]:
            inputs = (settings, self.model, asked, self.examples)
            return {"texts": np.array(knownness.answers(*inputs, seed=self.seed, pieces=pieces, progress=progress))}

        return self._kept(settings, asked, answer, "answers")["texts"].tolist()

    def _kept(
        self,
        settings: KnownnessConfig,
        facts: Sequence[Fact],
        make: Callable[[Pieces], dict[str, np.ndarray]],
        *what: str,
    ) -> dict[str, np.ndarray]:
        """Return what the model says of these facts, made now unless it is kept: its scores, or `what`."""
        asked = [asdict(fact) for fact in facts], [fact.id for fact in self.examples]
        told = identity.of(self.base), config_json.to_json(settings)
        name = config_json.config_hash([*what, *told, *asked, self.seed])[:24]
        whole = Pieces(self.out / "scores")
        pieces = whole.under(f".{name}.work")
        kept = whole.jointly(name, lambda: make(pieces))
        pieces.forget()
        return kept
