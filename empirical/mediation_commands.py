"""Two models on the same questions: what of the one, put into the other, moves its answers; a command each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
import pyarrow as pa
import tyro
from rich.table import Table

from core import shares, statistics
from core.columns import Columns
from core.console import OUTPUT, progress
from core.errors import InputError
from core.shares import PATCHES
from empirical import config as configs
from empirical import mediation, study
from empirical.lm import graft, identity, shape
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.lm.patch import numbers_of
from empirical.mediation import Asked, Intervention
from empirical.on_model import OnModel
from empirical.pieces import Pieces

What = Annotated[tuple[str, ...], tyro.conf.arg(metavar="WHAT [WHAT ...]")]


@dataclass(frozen=True)
class Between(OnModel, ABC):
    """What `patch` and `graft` share: a receiver, --model.name, and a donor."""

    donor: str = ""
    """The model whose activations or weights are given: a folder that `finetune` wrote, or anything that --model.name
    takes. Of the same base as --model.name."""

    @abstractmethod
    def interventions(self, receiver: LanguageModel) -> dict[str, Intervention]:
        """Return what is done, one after another, by name; InputError for what cannot be."""

    def settings(self) -> tuple[str | float, ...]:
        """Return what else an outcome depends on."""
        return ()

    def run(self, name: str) -> int:
        """Ask both models, and the receiver under each intervention; write and print the table."""
        base_model = self.base()
        if not self.donor:
            raise InputError("name the model whose activations or weights are given with --donor.")
        settings = (identity.weights(self.donor), self.settings())
        chosen = self.held_out(base_model, self.donor)
        receiver = models.merged(models.measured(base_model.load()))
        donor = models.merged(models.measured(models.load(replace(base_model.model, name=self.donor))))
        mediation.check(receiver, donor)
        tried = self.interventions(receiver)
        place = self.result(base_model, f"{name}.parquet", *settings, list(tried))
        pieces = Pieces(self.work(base_model, name, configs.to_json(self.config), *settings))
        asked = Asked(self.config.evaluate, receiver.format.ask(chosen, new_tokens=self.config.evaluate.max_new_tokens))
        with progress(name, len(chosen) * (len(tried) + 2)) as told:
            found = mediation.outcomes(receiver, donor, tried, asked, pieces=pieces, told=told)
        columns = shares.table(found, study.identify(chosen).subject, seed=0)
        place.write(pa.table(columns))
        pieces.forget()
        print_shares(columns)
        OUTPUT.print(f"{len(chosen):,} held-out questions, {len(tried)} interventions: {place.path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Patching(Between):
    """Give a model another's activations while it reads the held-out questions, and write patch.parquet.

    Both read the true answer; what is asked is whether each of its tokens is the likeliest. `share` says how much of
    the gap between the two models moves.
    """

    what: What = PATCHES
    """What is given: WHAT@WHERE, WHAT@WHERE:LAYERS or WHAT@WHERE:LAYERS:HEADS (attention@subject:4-7:0,3). WHAT is
    attention, value, mlp or layer; WHERE is subject, subject_last, end or all; a plus joins several."""
    windows: int = 1
    """Give each of them in so many windows of neighbouring layers too, one at a time; 1: in all layers alone."""

    def interventions(self, receiver: LanguageModel) -> dict[str, Intervention]:
        texts = mediation.in_windows(receiver, self.what, self.windows)
        return {text: partial(mediation.patched, text) for text in texts}

    def __call__(self) -> int:
        return self.run("patch")


@dataclass(frozen=True)
class Grafting(Between):
    """Give a model some of another's weights, ask it the held-out questions, and write graft.parquet.

    `share` in the table says how much of the gap between the two models moves.
    """

    what: What = mediation.GRAFTS
    """Parts that are given, one after another: query_key, value_output, mlp, norms, embeddings; a plus joins some."""
    layers: str = ""
    """Where, as in 0-4,7, counted from 0; empty: everywhere."""
    share: float = 1.0
    """How far the weights go from the receiver's, 0, to the donor's, 1."""

    def interventions(self, receiver: LanguageModel) -> dict[str, Intervention]:
        mediation.check_grafts(self.what)
        layers = numbers_of(self.layers) if self.layers else None
        graft.check_layers(receiver.network, layers or ())
        return {what: partial(mediation.grafted, what, layers=layers, share=self.share) for what in self.what}

    def settings(self) -> tuple[str | float, ...]:
        return self.layers, self.share

    def __call__(self) -> int:
        return self.run("graft")


@dataclass(frozen=True)
class Knockout(OnModel):
    """Cut the answer off from the subject, by windows of layers, and write knockout.parquet.

    Geva et al. (2023): the drop of the true answer's log-probability says in which layers the subject is read out.
    """

    windows: int = 6
    """Cut in so many windows of neighbouring layers, one at a time, and in all layers."""

    def __call__(self) -> int:
        base_model = self.base()
        place = self.result(base_model, "knockout.parquet", self.windows)
        chosen = self.held_out(base_model)
        model = base_model.read()
        asked, subject = model.format.ask(chosen), study.identify(chosen).subject
        has_subject = np.array([question.has_subject for question in asked])
        if not has_subject.any():
            raise InputError("no held-out question names its subject, so there is nothing to cut.")
        rows = np.flatnonzero(has_subject)
        encoded, cluster = [asked[row] for row in rows], subject[rows]
        mediation.say_where(model)
        n_layers = shape.n_layers(model.network)
        places = [tuple(range(n_layers)), *(mediation.windows(n_layers, self.windows) if self.windows > 1 else ())]
        found = []
        with progress("cutting", len(encoded) * (1 + len(places))) as advance:
            config = self.config.evaluate
            whole = mediation.cut(model, None, Asked(config, encoded, partial(advance, "nothing cut")))
            for layers in places:
                name = mediation.named(layers)
                after = mediation.cut(model, layers, Asked(config, encoded, partial(advance, name)))
                interval = statistics.clustered_interval(whole - after, cluster, seed=0)
                found.append((name, len(encoded), *interval))
        columns = dict(zip(("layers", "n", "drop", "low", "high"), zip(*found, strict=True), strict=True))
        place.write(pa.table(columns))
        title = "log-probability of the true answer lost without attention to the subject, in nats"
        printed = Table("layers", "questions", "drop", "95 % interval", title=title)
        for name, n, drop, low, high in found:
            printed.add_row(name, f"{n:,}", f"{drop:+.3f}", f"{low:+.3f} to {high:+.3f}")
        OUTPUT.print(printed)
        OUTPUT.print(f"{len(encoded):,} held-out questions: {place.path}", soft_wrap=True)
        return 0


def print_shares(columns: Columns) -> None:
    """Print the rows of patch.parquet or graft.parquet."""
    printed = Table("", "accuracy", "share of the gap", "95 % interval", "of the log-probability's", "95 % interval")
    for row in pa.table(columns).to_pylist():
        numbers = [f"{row[name]:.2f}" for name in shares.COLUMNS[6:]]
        accuracy, moved, by_logprob = f"{row['accuracy']:.3f}", numbers[:3], numbers[3:]
        cells = (moved[0], f"{moved[1]} to {moved[2]}", by_logprob[0], f"{by_logprob[1]} to {by_logprob[2]}")
        printed.add_row(row["intervention"], accuracy, *cells)
    OUTPUT.print(printed)
