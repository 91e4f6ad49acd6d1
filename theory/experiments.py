"""The named experiments: a sentence and a configuration each."""

from dataclasses import replace

from theory.config import Config
from theory.facts import Background, FactsConfig
from theory.finetune import FinetuneConfig
from theory.model import ModelConfig
from theory.pretrain import PretrainConfig
from theory.split import SplitConfig

PAPER = Config()

POPQA_BARE = replace(
    PAPER,
    facts=FactsConfig(where="pop_source=[AB]", exposure_exponent=0.5),
    split=SplitConfig(held_out=0.25, within_relation=True),
)
POPQA = replace(POPQA_BARE, facts=replace(POPQA_BARE.facts, background=Background(size=2.0, share=0.5, skew=1.0)))

NEEDS_TABLE = ("popqa", "popqa-bare")
"""Experiments on a table that the user names with --facts.table."""

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
        "PopQA's facts beside a background population that shares their answers (needs --facts.table).",
        POPQA,
    ),
    "popqa-bare": ("PopQA's facts alone: mostly unique answers (needs --facts.table).", POPQA_BARE),
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
        replace(PAPER, model=ModelConfig(form="dense", embeddings="random", dimension=250)),
    ),
    "value-share": (
        "W_V reads the shared directions too, so that values generalise over subjects.",
        replace(PAPER, model=ModelConfig(value_share=0.1)),
    ),
}
"""Name to what it shows in a sentence, and its configuration."""
