"""A small Llama pretrained on a rendered world, saved as an ordinary checkpoint folder.

The folder `<out>/models/<name>-<hash>/` exists iff the pretraining finished; it holds the model, the tokenizer, the
world's facts as a table, and how recall grew.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float64, Int
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from core import config_json, lock, provenance, writing
from core.errors import InputError
from core.facts.record import FactSet
from empirical import facts
from empirical.lm import checkpoint, completion
from empirical.lm import tokenizer as tokenizers
from empirical.lm.model import device
from empirical.lm.tokenizer import special_token_id
from empirical.worlds import corpus
from empirical.worlds import world as worlds
from empirical.worlds.world import World, WorldConfig

N_BUCKETS = 5
"""Recall is measured by fifths of popularity."""
SCHEMA = 1
"""Raised by one whenever what pretraining does changes, so that no stale model is taken from the cache."""


@dataclass(frozen=True)
class PretrainConfig:
    """A model of the Llama architecture and how it is pretrained."""

    d_model: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Number of transformer blocks."""
    heads: int = 4
    """Number of attention heads, each d_model/heads wide."""
    key_value_heads: int = 4
    """Number of heads for keys and values; fewer than `heads` gives grouped-query attention."""
    vocabulary: int = 2048
    """Size of the tokenizer's vocabulary, at most."""
    learning_rate: float = 2e-3
    """AdamW's peak learning rate; it falls to zero along a cosine."""
    warmup: float = 0.05
    """Share of the steps during which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on all weights."""
    batch_size: int = 128
    """Number of sentences per step."""
    epochs: float = 1.0
    """Factor on the expected number of sentences about every fact."""
    n_probes: int = 8
    """Number of times that recall is measured, evenly along the training, its end included."""
    checkpoint_every: int = 200
    """Number of steps between checkpoints; an interrupted pretraining goes on from the last one."""


def check(config: PretrainConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for name in ("d_model", "layers", "heads", "key_value_heads", "batch_size", "n_probes", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise InputError(f"--pretrain.{name.replace('_', '-')} is {getattr(config, name)}: it must be at least 1.")
    if config.d_model % config.heads or config.heads % config.key_value_heads or (config.d_model // config.heads) % 2:
        raise InputError(
            f"--pretrain.d-model {config.d_model}, heads {config.heads}, key-value-heads {config.key_value_heads}: "
            "heads must divide d_model into even parts, and key-value-heads must divide heads."
        )
    if config.vocabulary < 300:
        raise InputError(f"--pretrain.vocabulary is {config.vocabulary}: 256 bytes and 3 special tokens fill it.")
    for name in ("learning_rate", "epochs"):
        if not 0 < getattr(config, name) < float("inf"):
            raise InputError(f"--pretrain.{name.replace('_', '-')} is {getattr(config, name)}: it must be positive.")
    if not 0 <= config.warmup < 1:
        raise InputError(f"--pretrain.warmup is {config.warmup}: it must be at least 0 and below 1.")
    if not 0 <= config.weight_decay < float("inf"):
        raise InputError(f"--pretrain.weight-decay is {config.weight_decay}: it must be at least 0.")


def folder(config: PretrainConfig, world: WorldConfig, given: FactSet | None, out: Path, *, seed: int) -> Path:
    """Return where this very model belongs."""
    identity = {"pretrain": config, "world": world, "facts": facts.fingerprint(given), "seed": seed, "schema": SCHEMA}
    return out / "models" / f"seed{seed}-{config_json.config_hash(identity)[:16]}"


def run(
    config: PretrainConfig,
    world_config: WorldConfig,
    given: FactSet | None,
    out: Path,
    *,
    seed: int,
    progress: Callable[[str, float], None] = lambda doing, share: None,
) -> Path:
    """Return the folder of the pretrained model, made now unless it is there; goes on from where it was interrupted.

    Args:
        given: The facts to tell; None for a sampled world.

    Raises:
        InputError: a setting out of range, or a folder that cannot be written or locked.
    """
    check(config)
    path = folder(config, world_config, given, out, seed=seed)
    if path.exists():
        return path
    writing.check_writable(path.parent)
    # Another process may be at the same model: the second waits, and finds it done.
    with lock.held(path.with_name(f".{path.name}.lock"), wait=True):
        if not path.exists():
            _make(config, world_config, given, path, seed=seed, progress=progress)
    return path


def _make(
    config: PretrainConfig,
    world_config: WorldConfig,
    given: FactSet | None,
    path: Path,
    *,
    seed: int,
    progress: Callable[[str, float], None],
) -> None:
    """Pretrain, and put everything into a folder of this name at once."""
    world = worlds.build(world_config, given, seed=seed)
    partial = path.with_name(f".{path.name}.partial")
    tokenizer = tokenizers.train(corpus.vocabulary(world), size=config.vocabulary)
    started = time.monotonic()
    trained, recall_trace = _train(config, world, tokenizer, partial, seed=seed, progress=progress)
    trained.save_pretrained(partial / "model")
    tokenizer.save_pretrained(partial / "model")
    _write_facts(world, partial / "model" / "facts.parquet")
    record = {
        "config": config_json.plain(config),
        "world": config_json.plain(world_config),
        "seed": seed,
        "parameters": trained.num_parameters(),
        "sentences": float(world.exposures.sum() * config.epochs),
        "recall": recall_trace,
        "seconds": time.monotonic() - started,
    } | provenance.environment()
    (partial / "model" / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (partial / "model").rename(path)
    shutil.rmtree(partial)


def n_steps(config: PretrainConfig, world: World) -> int:
    """Return how many steps tell every fact as often as it should be, on average."""
    return max(1, round(world.exposures.sum() * config.epochs / config.batch_size))


def _train(
    config: PretrainConfig,
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    partial: Path,
    *,
    seed: int,
    progress: Callable[[str, float], None],
) -> tuple[LlamaForCausalLM, list[dict]]:
    """Return the trained model and its recall by fifth along the training."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(architecture(config, tokenizer)).to(device=device())  # type: ignore[call-arg]
    steps = n_steps(config, world)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(config.warmup * steps), steps)
    state = checkpoint.State(model, optimizer, schedule, partial / "checkpoint.pt", config.checkpoint_every)
    start, recall_trace = state.resume() or (0, [])
    sentences = corpus.build(world, tokenizer)
    at = {round(steps * (i + 1) / config.n_probes) for i in range(config.n_probes)}
    for step in range(start, steps):
        batch = sentences.draw(config.batch_size, np.random.default_rng([seed, 6, step]))
        loss = _step(model, optimizer, torch.as_tensor(batch, dtype=torch.long), pad=special_token_id(tokenizer, "pad"))
        schedule.step()
        if step + 1 in at:
            recall_trace.append(
                {"step": step + 1, "loss": float(loss), "recall": recall_by_fifth(model, tokenizer, world)}
            )
        if state.is_due(step + 1, last=steps):
            state.save(step + 1, recall_trace)
        if step % 10 == 0:
            progress(f"loss {float(loss):.2f}", (step + 1) / steps)
    return model.eval(), recall_trace


def _step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, tokens: Int[torch.Tensor, "sentence token"], *, pad: int
) -> torch.Tensor:
    """Take one step on a batch of right-padded sentences and return its loss."""
    model.train()
    tokens = tokens.to(model.device)
    # No mask is needed: attention is causal, and padding comes last and is not scored.
    logits = model(tokens[:, :-1]).logits
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), ignore_index=pad)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def architecture(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Return the Llama architecture of this size, embeddings tied."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=(8 * config.d_model // 3 + 7) // 8 * 8,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=special_token_id(tokenizer, "bos"),
        eos_token_id=special_token_id(tokenizer, "eos"),
        pad_token_id=special_token_id(tokenizer, "pad"),
    )


def recall_by_fifth(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, world: World) -> list[float]:
    """Return the share of facts whose sentences are completed, in each fifth of popularity, the best known first."""
    facts_told = world.fact_set().facts
    recalled = completion.recall(model, tokenizer, facts_told, n_paraphrases=world.n_paraphrases) >= 0.5
    return [float(recalled[rows].mean()) for rows in fifths(np.array([fact.popularity for fact in facts_told]))]


def fifths(popularity: Float64[np.ndarray, " fact"]) -> list[Int[np.ndarray, " _"]]:
    """Return the rows of each fifth of popularity, the best known first; of fewer than five facts one group each."""
    return np.array_split(np.argsort(-popularity, kind="stable"), min(N_BUCKETS, len(popularity)))


def _write_facts(world: World, path: Path) -> None:
    pq.write_table(pa.table(worlds.to_table(world)), path)
