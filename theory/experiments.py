"""The named experiments, a sentence and a configuration each, and the named sweeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core import arms, split
from core.errors import InputError
from core.facts.request import TableColumns
from core.facts.store import Background
from core.split import SplitConfig
from theory import design
from theory.config import Config
from theory.design import Design
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.model.config import ModelConfig
from theory.pretrain import PretrainConfig

PAPER = Config()

POPQA_BARE = replace(
    PAPER,
    facts=FactsConfig(where="pop_source=[AB]", exposure_exponent=0.5),
    split=SplitConfig(held_out=0.25, within_relation=True),
)
POPQA = replace(POPQA_BARE, facts=replace(POPQA_BARE.facts, background=Background(size=2.0, share=0.5, skew=1.0)))

SUPERPOSED = ModelConfig(parametrisation="dense", embeddings="random", dimension=250)

QUESTIONS = replace(
    PAPER,
    facts=FactsConfig(columns=TableColumns(popularity="percentile"), popularity="rank"),
    split=SplitConfig(held_out=0.4, dev=0.1, within_relation=True),
    more_arms=tuple(name for family in ("answer", "matched", "crossed", "size") for name in arms.FAMILIES[family][0]),
)
"""The split and the arms of the studies of published models; how often a fact is told is Zipf by its knownness."""

NEEDS_TABLE = {
    "popqa": "Name PopQA's with --facts.path FILE.",
    "popqa-bare": "Name PopQA's with --facts.path FILE.",
    "questions": "Make one with python -m empirical score, and name its scores.parquet with --facts.path FILE.",
}
"""Experiments on a table that the user names with --facts.path, and how to come by it."""

EXPERIMENTS: dict[str, tuple[str, Config]] = {
    "paper": ("The default world: finetuning on lesser-known facts hurts held-out facts.", PAPER),
    "everything": (
        "All weights finetuned, not attention alone: the effect remains.",
        replace(PAPER, finetune=FinetuneConfig(train="everything")),
    ),
    "stored": (
        "Long pretraining: everything is well stored, and the arms' order in attention reverses.",
        replace(PAPER, pretrain=PretrainConfig(steps=8000)),
    ),
    "popqa": (
        "PopQA's facts beside a background population that shares their answers (needs --facts.path).",
        POPQA,
    ),
    "popqa-bare": ("PopQA's facts alone: mostly unique answers (needs --facts.path).", POPQA_BARE),
    "questions": (
        "What the toy predicts of a language model: the facts that it knows more or less (needs --facts.path).",
        QUESTIONS,
    ),
    "same-format": (
        "Finetuning in the pretraining format, without a template: the effect is as large without a template.",
        replace(PAPER, finetune=FinetuneConfig(prompt="bare")),
    ),
    "fresh-relation": (
        "A fresh relation token of no value: nothing says what is asked, all arms attend to the subject, no effect.",
        replace(PAPER, finetune=FinetuneConfig(prompt="fresh_relation")),
    ),
    "superposition": (
        "Random embeddings in 250 dimensions for 1,005 tokens: the effect without orthogonality.",
        replace(PAPER, model=SUPERPOSED),
    ),
    "crossed": (
        "The default world, how well facts are known and how rare their answers are crossed: rare answers help.",
        replace(PAPER, more_arms=arms.CROSSED),
    ),
    "interference": (
        "Superposition, all weights finetuned, values fast: facts overwrite each other, and rare answers hurt.",
        replace(
            PAPER,
            model=SUPERPOSED,
            finetune=FinetuneConfig(train="everything", value_learning_rate=10.0),
            more_arms=arms.CROSSED,
        ),
    ),
    "value-share": (
        "W_V reads the shared directions too, so that values generalise over subjects.",
        replace(PAPER, model=ModelConfig(value_share=0.1)),
    ),
}
"""Name to what it shows in a sentence, and its configuration."""


def check_table(name: str | None, path: Path | None) -> None:
    """Raise InputError where an experiment needs a table and no path is given."""
    if name in NEEDS_TABLE and path is None:
        raise InputError(f"{name} needs a table of facts.\n{NEEDS_TABLE[name]}")


@dataclass(frozen=True)
class Sweep:
    """Many configs around one: the axes of a grid, or named variants."""

    sentence: str
    base: Config = PAPER
    axes: tuple[str, ...] = ()
    """As `design.grid` takes them."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configs in place of axes: label to the fields that it changes, by dotted name."""
    label: str = ""
    """The column of the variants' labels."""
    arms: tuple[str, ...] = split.ARMS
    seeds: int = 8

    def design(self) -> Design:
        """Return the configs."""
        if not self.variants:
            return design.grid(self.base, self.axes)
        variants = [design.replace(self.base, changes) for changes in self.variants.values()]
        return Design((self.label,), variants, [{self.label: name} for name in self.variants])


REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "early stopping": {"finetune.early_stopping": True},
    "KL 0.1": {"finetune.kl_weight": 0.1},
    "KL 1": {"finetune.kl_weight": 1.0},
    "attention floor 1": {"finetune.attention_floor": 1.0},
    "attention floor 10": {"finetune.attention_floor": 10.0},
    "everything": {"finetune.train": "everything"},
    "values only": {"finetune.train": "values"},
    "known first": {"finetune.curriculum": "known_first"},
    "known last": {"finetune.curriculum": "known_last"},
    "repeat 5 %": {"finetune.replay": 0.05},
    "repeat 10 %": {"finetune.replay": 0.1},
    "repeat 20 %": {"finetune.replay": 0.2},
}
"""What might close the gap, each at as many steps of as many facts."""

SWEEPS: dict[str, Sweep] = {
    "phase-exposure": Sweep(
        "The phase diagram over popularity exponent and length of pretraining: where the order reverses.",
        axes=("facts.popularity_exponent=0.5:1.5:20", "pretrain.steps=500:16000:20:log"),
        arms=("top", "bottom"),
    ),
    "phase-format": Sweep(
        "The phase diagram over answer skew and template strength.",
        axes=("facts.answer_skew=0:2:20", "model.template_strength=0:40:20"),
        arms=("top", "bottom"),
    ),
    "dose-share": Sweep(
        "Dose and response: the share of well-known facts in a finetuning set of fixed size.",
        axes=("split.size=0.125,0.25,0.5", "split.known_share=0:1:11"),
        arms=("mixture",),
        seeds=16,
    ),
    "dose-size": Sweep(
        "Dose and response: the size of a finetuning set of fixed share.",
        axes=("split.known_share=0,0.5,1", "split.size=0.005:0.5:9:log"),
        arms=("mixture",),
        seeds=16,
    ),
    "remedies": Sweep(
        "What might close the gap, at equal compute, and what it costs.",
        base=replace(PAPER, split=SplitConfig(dev=0.1)),
        variants=REMEDIES,
        label="remedy",
        seeds=16,
    ),
}
"""Name to what is swept."""
