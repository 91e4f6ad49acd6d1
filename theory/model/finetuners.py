"""One world's finetuning in either parametrisation: where it starts, what a step does, what can be seen of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory.model import dense, factored, traced
from theory.model.config import Prompt
from theory.model.embeddings import Embeddings
from theory.pretrain import Base


class Rates(NamedTuple):
    """The numbers of finetuning, stacked over worlds. None spares the program what would not be there."""

    attention: Float[np.ndarray, "*world"] | None
    value: Float[np.ndarray, "*world"] | None
    strength: dict[str, Float[np.ndarray, "*world"] | None]
    """Of every remedy that is a number, by its setting's name; None where it is off."""


class Task(NamedTuple):
    """What one world's finetuning reads. Tasks of one shape are stacked along a leading axis."""

    base: Base
    facts: factored.Facts
    arms: Int[np.ndarray, "*world arm row"]
    """Fact indices, better known first where the order counts; rows beyond an arm's size are padding."""
    sizes: Int[np.ndarray, "*world arm"]
    probe: Int[np.ndarray, "*world probe"]
    """Held-out facts on which the trace measures."""
    dev: Int[np.ndarray, "*world row"]
    """Facts by whose loss training stops early; empty otherwise."""
    known: Int[np.ndarray, "*world row"]
    """The facts that replay repeats; empty otherwise."""
    n_rows: Int[np.ndarray, "*world 3"]
    """How many of `probe`, `dev` and `known` are facts and not padding."""
    generic: Int[np.ndarray, "*world relation"]
    """Each relation's most frequent answer among all training facts; -1 where it has none."""
    vectors: Embeddings | None
    constants: traced.Constants
    rates: Rates
    seed: Int[np.ndarray, "*world"]
    """One seed for all arms: they differ in their facts alone."""


class Tuned(NamedTuple):
    """One arm's model."""

    values: factored.Values | None
    """None where the values stayed the base's."""
    logits: factored.Logits | None
    parameters: dense.Parameters | None
    """The dense model's."""


class Finetuner(NamedTuple):
    """One world's finetuning in one of the two parametrisations."""

    state: Any
    step: Callable[[Any, factored.Facts], tuple[Any, Float[Array, " fact"]]]
    look: Callable[[Any, factored.Facts], tuple[Float[Array, "token fact"], Float[Array, "fact output"]]]
    """Attention and output logits of question prompts."""
    recall: Callable[[factored.Facts], Float[Array, "fact output"]]
    """The base's output logits in the pretraining format."""
    result: Callable[[Any], Tuned]


Terms = Callable[[Callable[[], Float[Array, "fact output"]]], Sequence[factored.Term]]
"""What is added to a batch's loss, given what computes the base's output logits on it."""


def start(base: factored.Values, prompt: Prompt) -> tuple[factored.Values, factored.Logits]:
    """Return the factored model as finetuning begins: uniform attention over the prompt's tokens."""
    values = base._replace(relation=jnp.zeros_like(base.relation)) if prompt == "fresh_relation" else base
    return values, factored.initial_logits(values, prompt)


def of_factored(prompt: Prompt, task: Task, terms: Terms) -> Finetuner:
    """Return the finetuning of values and attention logits, by SGD alone."""
    assert isinstance(task.base, factored.Values)
    values, logits = start(task.base, prompt)
    moves_values = task.rates.value is not None
    rate, value_rate = (None if rate is None else jnp.asarray(rate) for rate in task.rates[:2])

    # Values that stay the base's are closed over, so that the loop carries no copy of them.
    def unpack(state: Any) -> tuple[factored.Values, factored.Logits]:
        return state if moves_values else (values, state)

    def step(state, batch):
        added = terms(lambda: factored.forward(values, logits, batch, task.constants)[2])
        moved_values, moved, losses = factored.question_step(
            *unpack(state), batch, rate, value_rate, task.constants, prompt, added
        )
        return (moved_values, moved) if moves_values else moved, losses

    def look(state, facts):
        attention, _, output = factored.forward(*unpack(state), facts, task.constants)
        return attention, output

    def result(state):
        moved_values, moved = unpack(state)
        return Tuned(moved_values if moves_values else None, moved, None)

    def recall(facts):
        assert isinstance(task.base, factored.Values)
        return factored.fact_logits(task.base, facts, task.constants)

    return Finetuner((values, logits) if moves_values else logits, step, look, recall, result)


def of_dense(prompt: Prompt, optimizer: str, task: Task, terms: Terms) -> Finetuner:
    """Return the finetuning of W_V and W_KQ."""
    assert isinstance(task.base, dense.Parameters)
    parameters = task.base
    vectors = jax.tree.map(lambda rows: rows.astype(parameters.value.dtype), task.vectors)
    transform = dense.optimizer(optimizer, value=task.rates.value, attention=task.rates.attention)

    def look(state, facts):
        return dense.forward(state.parameters, vectors, facts, task.constants, prompt)

    def recall(facts):
        return dense.forward(parameters, vectors, facts, task.constants, "bare")[1]

    state = dense.State(parameters, transform.init(parameters))
    step = dense.stepper(vectors, task.constants, prompt, transform, lambda batch: terms(lambda: look(state, batch)[1]))
    return Finetuner(state, step, look, recall, lambda s: Tuned(None, None, s.parameters))
