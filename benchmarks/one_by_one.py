"""Configs of a sweep one after another: PyTorch's loops and plain JAX, each timed on one config.

Only steps are timed: worlds, splits and batches are made before the clock starts, and nothing is measured or predicted.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import torch_loop
from benchmarks.designs import Counts
from core import split
from core.facts.store import FactStore
from theory import facts
from theory.config import Config
from theory.model import factored, traced


class Task(NamedTuple):
    """What is trained on: a config's world and one of its arms."""

    config: Config
    store: FactStore
    arm: np.ndarray


class Cost(NamedTuple):
    """What a config costs, in seconds."""

    pretrain: float
    """Seconds of a pretraining step."""
    finetune: float
    """Seconds of a finetuning step."""
    compilation: float = 0.0
    """Before its first step."""

    def total(self, counts: Counts, n_configs: int) -> float:
        """Return the seconds of a whole sweep, every config from its own start."""
        steps = counts.pretrain * self.pretrain + counts.finetune * self.finetune
        return steps + n_configs * self.compilation


def task(config: Config) -> Task:
    """Return a config's world of seed 0 and its lesser-known half."""
    store = facts.build(config.facts, seed=0)
    halves = split.select(store.subject, store.relation, store.popularity, config.split, seed=0)
    return Task(config, store, halves.arms["bottom"])


def by_torch(loop: torch_loop.Loop, of: Task, device: str, seconds: float) -> Cost:
    """Return PyTorch's cost, each stage measured over as many steps as take about so many seconds."""
    n_outputs = of.store.n_answers + of.config.model.n_filler
    tables = torch_loop.ValueTables(
        of.store.n_subjects, of.store.n_relations, n_outputs, is_sparse=loop.is_sparse, device=device
    )
    template = torch.zeros(n_outputs, device=device)
    template[of.store.n_answers :] = of.config.model.template_strength
    attention = torch_loop.Attention(tables, template, is_sparse=loop.is_sparse)

    def pretrain(n_steps: int) -> Callable[[], None]:
        size = of.config.pretrain.batch_size
        batches = torch_loop.draw(of.store, n_steps, batch_size=size, seed=n_steps, device=device)
        return lambda: loop.train(tables, batches)

    def finetune(n_steps: int) -> Callable[[], None]:
        size = of.config.finetune.batch_size
        batches = torch_loop.draw(of.store, n_steps, batch_size=size, seed=n_steps, device=device, arm=of.arm)
        return lambda: loop.finetune(attention, batches)

    return Cost(*(_seconds_per_step(stage, device, seconds) for stage in (pretrain, finetune)))


def by_plain_jax(of: Task) -> Cost:
    """Return the cost of a jitted scan over the simulator's own step, compiled for this config's numbers."""
    config, store = of.config, of.store
    rates = jnp.float32(config.pretrain.learning_rate), jnp.float32(config.finetune.learning_rate)
    constants = traced.uncounted(config.model)
    start = factored.initial_values(config.model, store.n_subjects, store.n_relations, store.n_answers, jnp.dtype("f4"))

    @jax.jit
    def pretrain(batches: factored.Facts):
        return jax.lax.scan(
            lambda values, batch: factored.fact_step(values, batch, rates[0], constants), start, batches
        )

    @jax.jit
    def finetune(values: factored.Values, batches: factored.Facts):
        def step(logits, batch):
            _, logits, loss = factored.question_step(
                values, logits, batch, rates[1], None, constants, config.finetune.prompt
            )
            return logits, loss

        return jax.lax.scan(step, factored.initial_logits(values, config.finetune.prompt), batches)

    def batches(n_steps: int, size: int, arm: np.ndarray | None) -> factored.Facts:
        drawn = torch_loop.draw(store, n_steps, batch_size=size, seed=0, arm=arm)
        return factored.Facts(*(jnp.asarray(ids.numpy().astype(np.int32)) for ids in drawn))

    stored = batches(config.pretrain.steps, config.pretrain.batch_size, None)
    asked = batches(config.finetune.steps, config.finetune.batch_size, of.arm)
    cold = time.perf_counter()
    stored_program = pretrain.lower(stored).compile()
    asked_program = finetune.lower(start, asked).compile()
    cold = time.perf_counter() - cold
    values, _ = stored_program(stored)
    asked_program(values, asked)
    warm = [_seconds(lambda: stored_program(stored)), _seconds(lambda: asked_program(values, asked))]
    return Cost(warm[0] / config.pretrain.steps, warm[1] / config.finetune.steps, cold)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _seconds_per_step(stage: Callable[[int], Callable[[], None]], device: str, seconds: float) -> float:
    """Return the seconds of one step of a PyTorch loop, on one thread or on PyTorch's own choice, whichever is faster.

    On a busy machine, threads that wait for one another can be many times slower.
    """
    own_choice = torch.get_num_threads()

    def timed(n_steps: int, n_threads: int) -> float:
        call = stage(n_steps)
        torch.set_num_threads(n_threads)
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        torch.set_num_threads(own_choice)
        return elapsed / n_steps

    timed(3, 1)  # what only the first steps pay
    trials = {n: timed(10, n) for n in {1, own_choice}}
    n_threads = min(trials, key=trials.__getitem__)
    return timed(int(np.clip(seconds / trials[n_threads], 10, 5000)), n_threads)
