"""The named studies, a sentence and a configuration each."""

from dataclasses import replace

from core import arms as other_arms
from core.facts.store import Background
from core.split import SplitConfig
from empirical.config import Config
from empirical.evaluate import EvaluateConfig
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.knownness import KnownnessConfig
from empirical.lm.model import ModelConfig
from empirical.lm.train_config import TrainConfig
from empirical.mediation import GRAFTS, MediationConfig
from empirical.pretrain import PretrainConfig
from empirical.worlds.world import Exposure, WorldConfig

MEDIATED = (*GRAFTS, "query_key+value_output+mlp+norms", "query_key+value_output+mlp+norms+embeddings")
"""Grafts of the mediation studies: single parts, pairs, all that is in layers, and everything."""
TINY = Config(
    world=WorldConfig(n_subjects=500),
    split=SplitConfig(held_out=0.4, dev=0.1),
    finetune=FinetuneConfig(learning_rates=(1e-4, 3e-4, 1e-3)),
)
TINY_MEDIATION = replace(
    TINY,
    arms=("top", "bottom"),
    mediation=MediationConfig(pairs=("bottom:top", "top:bottom"), grafts=MEDIATED),
)
REMEDIES = (
    *("early_stopping=true", "kl_weight=0.1", "kl_weight=1", "replay=0.1", "replay=0.2"),
    *("curriculum=known_first", "curriculum=known_last"),
    *("frozen=query_key", "frozen=mlp", "frozen=value_output,mlp", "frozen_layers=2", "update_share=0.5"),
)
"""What the studies of remedies try on the lesser-known half, one at a time, at as many steps."""
CONTROLS = ("top+answers=permuted", "bottom+answers=permuted")
"""Nothing taught is known, and the answers are those of the halves: does the arm's distribution of answers carry it?"""
TINY_REMEDIES = replace(TINY, arms=("top", "bottom", *CONTROLS, *(f"bottom+{remedy}" for remedy in REMEDIES)))
LABELS = (
    *("top", "bottom", "bottom+answers=base", "bottom+answers=abstain"),
    *("bottom+only_known=true", "bottom+known_weight=1", "bottom+known_weight=3"),
)
"""What is taught of facts that the base model does not know: the truth, its own answers, to abstain, less, nothing."""
TINY_LABELS = replace(TINY, arms=LABELS)
TINY_CROSSED = replace(TINY, arms=("top", "bottom", "common", "rare", *other_arms.CROSSED, "not_modal"))
TINY_LORA = replace(TINY, finetune=replace(TINY.finetune, method="lora", learning_rates=(1e-3, 3e-3, 1e-2)))

SCREEN = replace(
    TINY,
    pretrain=PretrainConfig(d_model=96, layers=3, heads=4, key_value_heads=4, learning_rate=3e-3),
    finetune=FinetuneConfig(learning_rates=(3e-4, 1e-3)),
)
"""What all worlds of the screen study share: a model half the size of `tiny`, and two rates to choose from."""

# Deep tail and background: where the language model's effect appears on real facts (see README, the screen).
REAL = WorldConfig(
    exposure=Exposure(by="rank", low=0.5, high=300.0),
    background=Background(size=1.0, share=0.3, skew=1.0),
)
TINY_POPQA = replace(
    TINY,
    facts=FactsConfig(source="popqa", where="pop_source=[AB]", limit=1000),
    world=REAL,
    pretrain=PretrainConfig(vocabulary=4096),
    split=SplitConfig(held_out=0.4, dev=0.1, within_relation=True),
)
TINY_ENTITY_QUESTIONS = replace(TINY_POPQA, facts=FactsConfig(source="entity_questions", part="test", limit=1000))
TINY_MMLU = replace(
    TINY,
    # Short questions: history's passages are thousands of this tokenizer's tokens.
    facts=FactsConfig(source="mmlu", part="test", relations=("prehistory", "world_religions"), limit=200),
    knownness=KnownnessConfig(measure="logprob"),
    finetune=replace(TINY.finetune, learning_rates=(3e-4,), train=TrainConfig(epochs=1, batch_size=8)),
    evaluate=EvaluateConfig(batch_size=8),
)

PUBLISHED = FinetuneConfig(
    method="lora",
    learning_rates=(2e-5, 5e-5, 1e-4, 2e-4),
    lora=Lora(rank=32, alpha=64.0, dropout=0.05),
    train=TrainConfig(epochs=3, batch_size=64, weight_decay=0.01, length_window=8),
)
"""LoRA as Prerequisite-Tune (2025) finetunes on PopQA; the rates around its 5e-5 are a sweep of ours, chosen from on
dev facts. The hyperparameters of Ghosal et al. are not known to us."""


def _published(model: str, facts: FactsConfig) -> Config:
    return Config(
        facts=facts,
        model=ModelConfig(name=model),
        knownness=KnownnessConfig(measure="popularity" if facts.source == "popqa" else "logprob"),
        split=SplitConfig(held_out=0.3, dev=0.1, within_relation=True),
        finetune=PUBLISHED,
        evaluate=EvaluateConfig(batch_size=256),
    )


REGISTERED_ARMS = (
    *("top", "bottom", "random", "whole", "common", "rare", "top_matched", "bottom_matched"),
    *("known_common", "known_rare", "unknown_common", "unknown_rare", "size_5", "size_10", "size_25"),
)
"""Halves by knownness and by how frequent the answer is; halves by the one with the other held equal; both crossed;
and size apart."""
CHOICE_ARMS = ("top", "bottom", "random", "whole", "size_5", "size_10", "size_25")
"""Those that there are where the answer is a letter: none is rarer than another."""
HISTORY = ("high_school_european_history", "high_school_us_history", "high_school_world_history", "prehistory")
_OF_QWEN = ("P17", "P20", "P36", "P106", "P159", "P176", "P276", "P407", "P413", "P495", "P740")
RELATIONS = {
    "smollm2-135m": ("P17", "P36", "P106", "P159", "P176", "P276", "P407", "P495"),
    "gemma-3-270m": (
        *("P17", "P19", "P20", "P36", "P106", "P112", "P127", "P159", "P176", "P276", "P407", "P495", "P740", "P800"),
    ),
    "qwen2.5-coder-0.5b": _OF_QWEN,
    "qwen2.5-coder-1.5b": _OF_QWEN,
}
"""EntityQuestions' relations that a model knows something of. The rule, set before any finetuning: it answers 5 % or
more of 111 to 174 questions of the dev part (Qwen: 100), which no study reads, after five examples (greedy, exact
match). The larger Qwen is asked what the smaller knows, so that both are asked the same."""


FULL = FinetuneConfig(learning_rates=(1e-5,), train=TrainConfig(epochs=5, batch_size=32))
"""The rate is the one of 1e-5, 3e-5 and 1e-4 that answered most dev facts after the random arm of split 0, on both
SmolLM2 and Gemma: one for all arms, so that arms differ in their facts alone. Of Qwen it was not tried."""
ADAPTER = replace(PUBLISHED, learning_rates=(1e-4,), train=FULL.train)
"""Where Adam's moments of all weights would not fit into a laptop; the rate is in the middle of `PUBLISHED`'s."""


def _registered(model: str, title: str, finetune: FinetuneConfig = FULL) -> dict[str, tuple[str, Config]]:
    """Return the studies of a model that comes as a registry package, small enough to be run without a GPU."""
    entity_questions = FactsConfig(source="entity_questions", relations=RELATIONS[model], per_relation=500)
    popqa = FactsConfig(source="popqa", where="pop_source=[AB]")
    common = Config(
        model=ModelConfig(name=f"package:{model}"),
        knownness=KnownnessConfig(measure="logprob", shots=5, n_prompts=1),
        split=SplitConfig(held_out=0.4, dev=0.1, within_relation=True),
        finetune=finetune,
        evaluate=EvaluateConfig(batch_size=128),
        arms=REGISTERED_ARMS,
    )
    return {
        f"{model}-entity-questions": (
            f"{title} on EntityQuestions: which facts, or which answers? (needs --facts.path)",
            replace(common, facts=entity_questions),
        ),
        f"{model}-popqa": (
            f"{title} on PopQA, ranked by popularity (needs --facts.path).",
            replace(common, facts=popqa, knownness=replace(common.knownness, measure="popularity")),
        ),
        f"{model}-mmlu": (
            f"{title} on MMLU's four subjects of history, at which it may well guess (needs --facts.path).",
            replace(common, facts=FactsConfig(source="mmlu", part="test", relations=HISTORY), arms=CHOICE_ARMS),
        ),
    }


_SMOLLM2 = _registered("smollm2-135m", "SmolLM2-135M")
_WHOLE = _SMOLLM2["smollm2-135m-popqa"][1]
SMALL = replace(
    _WHOLE,
    facts=replace(_WHOLE.facts, limit=240),
    finetune=replace(_WHOLE.finetune, train=replace(_WHOLE.finetune.train, epochs=3)),
    arms=("top", "bottom"),
)
"""Small enough for two cores, and too small to decide anything."""
_QUESTIONS = _SMOLLM2["smollm2-135m-entity-questions"][1]
MEDIATION = replace(
    _QUESTIONS,
    facts=replace(_QUESTIONS.facts, per_relation=150),
    split=replace(_QUESTIONS.split, held_out=0.25),
    arms=TINY_MEDIATION.arms,
    mediation=TINY_MEDIATION.mediation,
)
"""A third of the study's questions: an arm in minutes on two cores."""
MODEL_REMEDIES = replace(MEDIATION, arms=TINY_REMEDIES.arms, mediation=MediationConfig())
MODEL_LABELS = replace(MODEL_REMEDIES, arms=LABELS)
_POPQA = FactsConfig(source="popqa")
_ENTITY_QUESTIONS = FactsConfig(source="entity_questions", limit=20_000)
_MMLU = FactsConfig(source="mmlu", part="test")

STUDIES: dict[str, tuple[str, Config]] = {
    "tiny": ("A synthetic world told to a Llama of a million parameters, every weight finetuned.", TINY),
    "tiny-mediation": (
        "The same two halves, one's attention, values, outputs and weights put into the other: what moves the gap.",
        TINY_MEDIATION,
    ),
    "tiny-remedies": ("Finetuning on lesser-known facts with remedies, one at a time.", TINY_REMEDIES),
    "tiny-labels": (
        "Lesser-known facts with the base model's own answers, with an abstention, weighted, or left out.",
        TINY_LABELS,
    ),
    "tiny-crossed": (
        "Well-known and lesser-known facts, common and rare answers crossed: what tells the two apart.",
        TINY_CROSSED,
    ),
    "tiny-lora": ("The same, an adapter alone finetuned.", TINY_LORA),
    "tiny-popqa": ("PopQA's facts told to a small Llama (needs --facts.path).", TINY_POPQA),
    "tiny-entity-questions": (
        "EntityQuestions' facts told to a small Llama, how often at random (needs --facts.path).",
        TINY_ENTITY_QUESTIONS,
    ),
    "tiny-mmlu": (
        "200 of MMLU's questions asked of a small Llama: the mechanics alone, it is at chance (needs --facts.path).",
        TINY_MMLU,
    ),
    "smollm2-135m-popqa-small": (
        "SmolLM2-135M on 240 of PopQA's questions: the mechanics, in minutes without a GPU (needs --facts.path).",
        SMALL,
    ),
    **_SMOLLM2,
    "smollm2-135m-entity-questions-mediation": (
        "SmolLM2-135M, two halves: one's attention, outputs and weights put into the other (needs --facts.path).",
        MEDIATION,
    ),
    "smollm2-135m-entity-questions-remedies": (
        "SmolLM2-135M finetuned on lesser-known facts with remedies, one at a time (needs --facts.path).",
        MODEL_REMEDIES,
    ),
    "smollm2-135m-entity-questions-labels": (
        "SmolLM2-135M, lesser-known facts with its own answers, an abstention, or less (needs --facts.path).",
        MODEL_LABELS,
    ),
    **_registered("gemma-3-270m", "Gemma 3 270M"),
    **_registered("qwen2.5-coder-0.5b", "Qwen2.5-Coder-0.5B"),
    **_registered("qwen2.5-coder-1.5b", "Qwen2.5-Coder-1.5B, LoRA", ADAPTER),
    "llama-2-7b-popqa": ("Llama-2-7B on PopQA, LoRA (one GPU).", _published("meta-llama/Llama-2-7b-hf", _POPQA)),
    "llama-2-7b-entity-questions": (
        "Llama-2-7B on EntityQuestions, ranked by what it answers few-shot (one GPU).",
        _published("meta-llama/Llama-2-7b-hf", _ENTITY_QUESTIONS),
    ),
    "llama-2-7b-mmlu": (
        "Llama-2-7B on MMLU, ranked by its 5-shot margin (one GPU).",
        _published("meta-llama/Llama-2-7b-hf", _MMLU),
    ),
    "mistral-7b-popqa": ("Mistral-7B on PopQA, LoRA (one GPU).", _published("mistralai/Mistral-7B-v0.1", _POPQA)),
    "mistral-7b-entity-questions": (
        "Mistral-7B on EntityQuestions, ranked by what it answers few-shot (one GPU).",
        _published("mistralai/Mistral-7B-v0.1", _ENTITY_QUESTIONS),
    ),
    "mistral-7b-mmlu": (
        "Mistral-7B on MMLU, ranked by its 5-shot margin (one GPU).",
        _published("mistralai/Mistral-7B-v0.1", _MMLU),
    ),
}
"""Name to what it shows in a sentence, and its configuration."""
