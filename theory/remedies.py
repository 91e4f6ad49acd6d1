"""What each remedy does to the toy's finetuning, in a class of its own; their settings are in `FinetuneConfig`."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from core import config_json
from theory.engine import sampling
from theory.model import factored
from theory.model.factored import Term
from theory.model.finetuners import Task

Draw = Callable[[Array], Int[Array, "step fact"]]
"""From a key to the facts of a block of steps."""
Output = Callable[[], Float[Array, "fact output"]]
"""The base's output logits on the batch, computed where they are asked for."""
Look = Callable[[Any, factored.Facts], tuple[Float[Array, "token fact"], Float[Array, "fact output"]]]
"""From a state and facts to attention and output logits."""
Score = Callable[[Any], Float[Array, ""]]
"""From a state to what is least in the one to keep."""


class Block(NamedTuple):
    """Steps whose facts are drawn at once."""

    config: Any
    task: Task
    rows: Int[Array, " row"]
    """The arm's facts, `size` of them, then padding."""
    size: Int[Array, ""]
    steps: Int[Array, "step 1"]
    n_steps: Int[Array, ""]
    """Number of steps of the whole training."""

    @property
    def shape(self) -> tuple[int, int]:
        """Steps by facts."""
        return len(self.steps), self.config.batch_size


class Remedy:
    """A remedy's part in finetuning; as it stands, it changes nothing."""

    reads: frozenset[Literal["order", "known", "dev"]] = frozenset()
    """What the task must hold for it: arms by knownness, the best-known facts, dev facts."""
    chooses_record = False
    """Whether it may return another state than the last, so that there must be records."""

    def rows(self, block: Block, draw: Draw) -> Draw:
        """Return how a block's facts are drawn, given how they would be otherwise."""
        return draw

    def term(self, strength: Float[Array, ""], task: Task, base: Output) -> Term | None:
        """Return what is added to a batch's loss.

        Args:
            strength: The remedy's number; asked only where it has one, and that is not zero.
        """
        return None

    def score(self, task: Task, look: Look) -> Score | None:
        """Return what is least in the recorded state to keep; None to keep the last."""
        return None


class EarlyStopping(Remedy):
    """Keeps the record with the least loss on the dev facts."""

    reads = frozenset({"dev"})
    chooses_record = True

    def score(self, task: Task, look: Look) -> Score | None:
        def dev_loss(state: Any) -> Float[Array, ""]:
            facts = task.facts.take(task.dev)
            output = look(state, facts)[1]
            loss = factored.loss_and_residual(output, facts.answer, task.constants.multiplicity)[0]
            is_fact = jnp.arange(len(loss)) < task.n_rows[1]
            return jnp.where(is_fact, loss, 0).sum() / is_fact.sum()

        return dev_loss


class Kl(Remedy):
    """Adds KL(base ‖ tuned) on the output to the loss."""

    def term(self, strength: Float[Array, ""], task: Task, base: Output) -> Term | None:
        return kl(strength, factored.probability(base(), task.constants.multiplicity))


class AttentionFloor(Remedy):
    """Adds ½ max(0, ½ − t)² to the loss, t the subject's share: the base's is ½, its attention being uniform."""

    def term(self, strength: Float[Array, ""], task: Task, base: Output) -> Term | None:
        return floor(strength)


class Curriculum(Remedy):
    """Draws the first half of the steps from one half of the arm, by knownness, and the rest from the other."""

    reads = frozenset({"order"})

    def rows(self, block: Block, draw: Draw) -> Draw:
        is_first = block.steps < block.n_steps / 2
        half = block.size // 2
        of_known = is_first if block.config.curriculum == "known_first" else ~is_first
        low, high = jnp.where(of_known, 0, half), jnp.where(of_known, half, block.size)
        return lambda key: block.rows[sampling.integers(key, block.shape, low, high, most=len(block.rows))]


class KnownWeight(Remedy):
    """Draws facts in proportion to their weights, which moves the model as weighted losses do in the mean."""

    reads = frozenset({"order"})

    def rows(self, block: Block, draw: Draw) -> Draw:
        power = jnp.asarray(block.task.rates.strength["known_weight"])

        def by_weight(key: Array) -> Int[Array, "step fact"]:
            # The rank's distribution is r^(1 + power); the best known comes first.
            rank = jax.random.uniform(key, block.shape) ** (1 / (1 + power))
            return block.rows[jnp.minimum(((1 - rank) * block.size).astype(jnp.int32), block.size - 1)]

        return by_weight


class Replay(Remedy):
    """Draws a share of every batch from the best-known facts."""

    reads = frozenset({"known"})

    def rows(self, block: Block, draw: Draw) -> Draw:
        task, share = block.task, jnp.asarray(block.task.rates.strength["replay"])

        def with_repeats(key: Array) -> Int[Array, "step fact"]:
            key, repeat_key, known_key = jax.random.split(key, 3)
            known = jnp.asarray(task.known)
            repeated = known[sampling.integers(known_key, block.shape, 0, task.n_rows[2], most=len(known))]
            is_repeated = jax.random.uniform(repeat_key, block.shape) < share
            return jnp.where(is_repeated, repeated, draw(key))

        return with_repeats


REMEDIES: dict[str, Remedy] = {
    "early_stopping": EarlyStopping(),
    "kl_weight": Kl(),
    "attention_floor": AttentionFloor(),
    "curriculum": Curriculum(),
    "known_weight": KnownWeight(),
    "replay": Replay(),
}
"""What each remedy does, by the name of its setting; draws and losses go through them in this order."""


def kl(weight: Float[Array, ""], base: Float[Array, "fact output"]) -> Term:
    """Return the term of KL(base ‖ tuned); its loss is the cross entropy, which differs by a constant."""
    return Term(
        loss=lambda attention, output: weight * optax.safe_softmax_cross_entropy(output, base).mean(),
        residual=lambda tuned: weight * (base - tuned),
    )


def floor(weight: Float[Array, ""]) -> Term:
    """Return the term of ½ max(0, ½ − t)²."""

    def loss(attention: Float[Array, "token fact"], output: Float[Array, "fact output"]) -> Float[Array, ""]:
        return weight * (jnp.maximum(0.5 - _share(attention), 0) ** 2 / 2).mean()

    def force(attention: Float[Array, "token fact"]) -> Float[Array, "token fact"]:
        share = _share(attention)
        lift = weight * jnp.maximum(0.5 - share, 0) * share * (1 - share)
        return jnp.stack([lift, -lift, jnp.zeros_like(lift)])

    return Term(loss, force=force)


def used(config: Any) -> dict[str, Remedy]:
    """Return the remedies that are on, by name."""
    on = config_json.remedies(config)
    return {name: remedy for name, remedy in REMEDIES.items() if name in on}


def reads(config: Any) -> set[str]:
    """Return what the task must hold for the remedies that are on."""
    return {what for remedy in used(config).values() for what in remedy.reads}


def chooses_record(config: Any) -> bool:
    """Return whether a remedy that is on may return another state than the last."""
    return any(remedy.chooses_record for remedy in used(config).values())


def rows(block: Block, draw: Draw) -> Draw:
    """Return how a block's facts are drawn, each remedy changing what those before it left."""
    for remedy in used(block.config).values():
        draw = remedy.rows(block, draw)
    return draw


def terms(config: Any, task: Task, base: Output) -> list[Term]:
    """Return what is added to a batch's loss."""
    strengths = {name: jnp.asarray(number) for name, number in task.rates.strength.items() if number is not None}
    found = [one.term(strengths[name], task, base) for name, one in used(config).items() if name in strengths]
    return [term for term in found if term is not None]


def score(config: Any, task: Task, look: Look) -> Score | None:
    """Return what decides which recorded state is kept, None for the last; of several remedies the first decides."""
    scores: Sequence[Score | None] = [remedy.score(task, look) for remedy in used(config).values()]
    return next((one for one in scores if one is not None), None)


def _share(attention: Float[Array, "token fact"]) -> Float[Array, " fact"]:
    return attention[0] / (attention[0] + attention[1])
