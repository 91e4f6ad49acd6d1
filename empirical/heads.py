"""The heads that the theory picks from the base model alone, beside those that carry the gap between two models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import tyro
from jaxtyping import Float, Int
from rich.table import Table
from scipy import stats

from core import statistics
from core.console import OUTPUT, progress
from core.errors import InputError
from core.statistics import Interval
from empirical import mediation, study, taught
from empirical.evaluate import EvaluateConfig
from empirical.lm import attribution, batch, identity, memory
from empirical.lm import model as models
from empirical.lm.batch import QuestionBatch
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.on_model import OnModel
from empirical.progress import Done

N_DRAWS, N_SHOWN = 1000, 10


@dataclass(frozen=True)
class Heads(OnModel):
    """Compare the heads that the theory picks beforehand with those that carry a gap, and write heads.parquet.

    Picked: in the base model, the force that the receiver's own training facts put on attention to the subject (R1).
    What matters: what the true answers' log-probability would gain, to first order, if a head of the receiver looked as
    the donor's does (Syed et al. 2023).
    """

    donor: str = ""
    """The model whose attention is given: as of `patch`, of the same base as --model.name, the receiver."""
    untuned: Annotated[str, tyro.conf.arg(name="base")] = ""
    """The base model from which both were finetuned: anything that --model.name takes."""

    def __call__(self) -> int:
        base_model = self.base()
        if not self.donor or not self.untuned:
            raise InputError(
                "name the other finetuned model with --donor, and what both were finetuned from with --base."
            )
        record = taught.read(base_model.model.name)
        if record is None:
            raise InputError(
                f"{base_model.model.name} does not say what it was finetuned on.\n"
                "Name with --model.name a folder that `finetune` wrote."
            )
        names = (identity.weights(self.donor), identity.weights(self.untuned))
        chosen = self.held_out(base_model, self.donor)
        place = self.result(base_model, "heads.parquet", *names)
        own = [
            fact for fact, is_own in zip(base_model.facts, record.is_trained(base_model.facts), strict=True) if is_own
        ]
        receiver = models.merged(models.measured(base_model.load()))
        donor, base = (
            models.merged(models.measured(models.load(replace(base_model.model, name=name))))
            for name in (self.donor, self.untuned)
        )
        mediation.check(receiver, donor)
        mediation.check(receiver, base)
        taught_facts = [(fact, one) for fact, one in zip(own, base.format.ask(own), strict=True) if one.has_subject]
        if not taught_facts:
            raise InputError("no question that it was finetuned on names its subject: there is nothing to look at.")

        def force(questions: QuestionBatch) -> torch.Tensor:
            return attribution.looking(base.network, questions).force(questions.spans[:, 0])

        def gain(questions: QuestionBatch) -> torch.Tensor:
            theirs = attribution.looking(donor.network, questions)
            return attribution.looking(receiver.network, questions).gain(theirs.weights)

        config, asked = self.config.evaluate, receiver.format.ask(chosen)
        with progress("heads", len(taught_facts) + len(asked)) as advance:
            facts, encoded = zip(*taught_facts, strict=True)
            predicted = each(config, base, encoded, force, lambda n: advance("force", n))
            effect = each(config, receiver, asked, gain, lambda n: advance("gain", n))
        clusters = study.identify(facts).subject, study.identify(chosen).subject
        columns = table(predicted, effect, clusters)
        place.write(pa.table(columns))
        found = agreement(predicted, effect, clusters, seed=0)
        print_heads(columns, found)
        told = f"{len(facts):,} training facts, {len(asked):,} held-out questions"
        OUTPUT.print(f"{told}, {len(columns['layer'])} heads: {place.path}", soft_wrap=True)
        return 0


def each(
    config: EvaluateConfig,
    model: LanguageModel,
    encoded: Sequence[Encoded],
    measure: Callable[[QuestionBatch], torch.Tensor],
    done: Done,
) -> Float[np.ndarray, "question layer head"]:
    """Return what is measured of each question, read in batches; `done` counts questions."""
    lengths, parts, order = [len(question.tokens) for question in encoded], [], []
    scored = [len(question.completion) for question in encoded]
    limits: dict[str, Any] = {"rows": config.batch_size, "trains": True}
    tokens = memory.tokens(model.network, config.batch_tokens, lengths, scored, **limits)
    for rows in batch.of_like_length(lengths, rows=config.batch_size, tokens=tokens):
        parts.append(measure(batch.of_questions([encoded[row] for row in rows], model.pad)).double().numpy())
        order += rows
        done(len(rows))
    return np.concatenate(parts)[np.argsort(order)]


def table(
    predicted: Float[np.ndarray, "fact layer head"],
    effect: Float[np.ndarray, "question layer head"],
    clusters: tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " question"]],
) -> dict[str, np.ndarray]:
    """Return heads.parquet's columns: the means by layer and head, with 95 % intervals over subjects."""
    layer, head = (index.ravel() for index in np.indices(predicted.shape[1:]))
    columns = {"layer": layer, "head": head}
    for name, values, cluster in zip(("predicted", "effect"), (predicted, effect), clusters, strict=True):
        ends = statistics.clustered_means(values, cluster)
        columns |= {f"{name}{end}": part.ravel() for end, part in zip(("", "_low", "_high"), ends, strict=True)}
    return columns


def agreement(
    predicted: Float[np.ndarray, "fact layer head"],
    effect: Float[np.ndarray, "question layer head"],
    clusters: tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " question"]],
    *,
    seed: int,
) -> Interval:
    """Return Spearman's rank correlation of both means over heads, with a bootstrap's 95 % interval over subjects."""
    rng = np.random.default_rng(seed)
    ranks, drawn = [], []
    for values, cluster in zip((predicted, effect), clusters, strict=True):
        flat = values.reshape(len(values), -1)
        _, index = np.unique(cluster, return_inverse=True)
        sums = np.zeros((index.max() + 1, flat.shape[1]))
        np.add.at(sums, index, flat)
        n = len(sums)
        weights = rng.multinomial(n, np.full(n, 1 / n), N_DRAWS)
        ranks.append(stats.rankdata(flat.mean(0)))
        drawn.append(stats.rankdata(weights @ sums / (weights @ np.bincount(index))[:, None], axis=1))
    deviations = [rows - rows.mean(1, keepdims=True) for rows in drawn]
    lengths = np.prod([np.linalg.norm(rows, axis=1) for rows in deviations], axis=0)
    low, high = np.quantile((deviations[0] * deviations[1]).sum(1) / lengths, [0.025, 0.975])
    return Interval(float(np.corrcoef(*ranks)[0, 1]), float(low), float(high))


def print_heads(columns: dict[str, np.ndarray], found: Interval) -> None:
    """Print the heads that matter most, and how far the theory's order agrees with theirs."""
    rank = {name: stats.rankdata(-columns[name], method="ordinal") for name in ("predicted", "effect")}
    title = f"the {N_SHOWN} heads whose looking as the donor does gains most, of {len(columns['layer'])}"
    printed = Table("layer", "head", "gain, nats", "95 % interval", "force on the subject", "its rank", title=title)
    for place in np.argsort(rank["effect"])[:N_SHOWN]:
        one = {name: column[place] for name, column in columns.items()}
        ends = f"{one['effect_low']:+.4f} to {one['effect_high']:+.4f}"
        cells = f"{one['effect']:+.4f}", ends, f"{one['predicted']:+.4f}", str(rank["predicted"][place])
        printed.add_row(str(one["layer"]), str(one["head"]), *cells)
    OUTPUT.print(printed)
    OUTPUT.print(
        f"rank correlation of force and gain over heads: {found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
    )
