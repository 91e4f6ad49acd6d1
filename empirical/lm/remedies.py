"""What each remedy (`core.remedies`, `FinetuneConfig`) does to a language model's training, in a hook of its own."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from core import config_json
from core.console import note
from core.remedies import Remedies, known_weights
from empirical import processes
from empirical.lm import batch, graft, order, sharded
from empirical.lm.hook import Hook
from empirical.lm.prompts import Encoded
from empirical.lm.step import answer_logits, loss_sum
from empirical.lm.train_config import TrainConfig

N_OWN = 256
"""Facts of an arm's own, at most, on which its loss is measured."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The questions that remedies read, the better known before the others."""

    own: Sequence[Encoded]
    """The arm's."""
    known: Sequence[Encoded]
    """The best-known tenth of all training facts."""
    dev: Sequence[Encoded]
    """Those that no arm is trained on and none is tested on, in any order."""
    knownness: Float[np.ndarray, " own"]
    """How well each of the arm's own is known."""
    recalled: Sequence[Encoded] = ()
    """Those of the arm that the base model recalls; empty unless a remedy needs it."""


@dataclass(frozen=True, eq=False)
class Training:
    """One arm's training, as it is about to begin."""

    network: Any
    """The model that is trained, its adapter on it if it has one."""
    questions: Ranked
    config: TrainConfig
    pad: int
    seed: int

    @property
    def n_steps(self) -> int:
        """The number of optimizer steps, which no remedy changes."""
        return order.n_steps(self.config, len(self.questions.own))


class Frozen(Hook):
    """Trains all but these parts of the model."""

    def __init__(self, config: Any, training: Training):
        _freeze(training.network, graft.names(training.network, config.frozen))


class FrozenLayers(Hook):
    """Trains all but so many of the lowest layers."""

    def __init__(self, config: Any, training: Training):
        _freeze(training.network, graft.names(training.network, layers=range(config.frozen_layers)))


class _Kept(Hook):
    """Ends with the weights that were kept last, those of the last step where none were."""

    def __init__(self, training: Training, questions: Sequence[Encoded]):
        self._network, self._pad = training.network, training.pad
        self._passes = order.passes(questions, order.in_memory(training.config, training.network, questions))
        self._weights: dict[str, torch.Tensor] = {}

    def end(self) -> None:
        with torch.no_grad():
            for name, value in self._trained().items():
                if name in self._weights:
                    value.copy_(self._weights[name])

    def keep(self) -> None:
        """Keep the weights as they are now."""
        self._weights = {
            name: sharded.whole(value.detach()).to("cpu", copy=True) for name, value in self._trained().items()
        }

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self._network.named_parameters() if value.requires_grad}

    def _loss(self) -> float:
        """Return the loss on the questions, summed."""
        self._network.eval()
        device, total = next(self._network.parameters()).device, 0.0
        with torch.no_grad():
            for own in self._passes:
                questions = batch.of_questions(own, self._pad)
                inputs = questions.tokens.to(device), questions.labels.to(device)
                total += loss_sum(self._network, *inputs).item()
        return total


class EarlyStopping(_Kept):
    """Ends with the weights of the recorded step whose loss on the dev facts is least, of equal ones the first."""

    def __init__(self, config: Remedies, training: Training):
        super().__init__(training, training.questions.dev)
        self._least = float("inf")

    def record(self, step: int) -> None:
        loss = processes.agreed(self._loss())
        if loss < self._least or not self._weights:
            self._least = loss
            self.keep()

    def state(self) -> Any:
        return {"least": self._least, "weights": self._weights}

    def resume(self, state: Any) -> None:
        self._least, self._weights = state["least"], state["weights"]


class UntilLoss(_Kept):
    """Ends with the weights of the first recorded step whose loss on the arm's own facts is low enough, else the last.

    It is the mean over the answers' tokens of at most N_OWN facts, drawn once.
    """

    def __init__(self, config: Any, training: Training):
        own, self._until = training.questions.own, config.until_loss
        chosen = np.random.default_rng([training.seed, 14]).permutation(len(own))[:N_OWN]
        questions = [own[row] for row in chosen]
        super().__init__(training, questions)
        self._n_tokens = sum(len(question.completion) for question in questions)

    def record(self, step: int) -> None:
        if not self._weights and processes.agreed(self._loss()) / self._n_tokens <= self._until:
            self.keep()

    def end(self) -> None:
        if not self._weights:
            note(f"A training never came to a loss of {self._until:g} on its own facts: it ends with its last step.")
        super().end()

    def state(self) -> Any:
        return self._weights

    def resume(self, state: Any) -> None:
        self._weights = state


class Kl(Hook):
    """Adds KL(base ‖ tuned) on the answers' tokens to the loss.

    The base is a frozen copy; of a model with an adapter it is the same model without, which takes no memory.
    """

    def __init__(self, config: Remedies, training: Training):
        self._weight, self._network = config.kl_weight, training.network
        self._has_adapter = hasattr(training.network, "disable_adapter")
        self._base = self._network if self._has_adapter else copy.deepcopy(self._network).requires_grad_(False)

    def loss(
        self,
        tokens: Int[torch.Tensor, "example token"],
        labels: Int[torch.Tensor, "example token"],
        predicting: Float[torch.Tensor, "scored output"],
    ) -> Float[torch.Tensor, ""] | float:
        base = self._base_logits(tokens, labels).float().log_softmax(-1)
        tuned = predicting.float().log_softmax(-1)
        return self._weight * functional.kl_div(tuned, base, reduction="sum", log_target=True)

    def _base_logits(
        self, tokens: Int[torch.Tensor, "example token"], labels: Int[torch.Tensor, "example token"]
    ) -> Float[torch.Tensor, "scored output"]:
        """Return the base's logits, without dropout; the model is left in training mode."""
        off: AbstractContextManager = self._network.disable_adapter() if self._has_adapter else nullcontext()
        was_training = self._base.training
        self._base.to(tokens.device).eval()
        with torch.no_grad(), off:
            predicting = answer_logits(self._base, tokens, labels)
        self._base.train(was_training)
        return predicting


class Curriculum(Hook):
    """Draws the first half of the steps from one half of the arm, by knownness, and the rest from the other."""

    def __init__(self, config: Remedies, training: Training):
        own, self._training = training.questions.own, training
        middle = max(1, len(own) // 2)
        known, other = own[:middle], own[middle:] or own
        self._halves = (known, other) if config.curriculum == "known_first" else (other, known)
        self._n_first = -(-training.n_steps // 2)

    def batch(self, step: int, drawn: list[Encoded]) -> list[Encoded]:
        is_second = step >= self._n_first
        half, since = self._halves[is_second], step - self._n_first * is_second
        lengths = [len(example.tokens) for example in half]
        rows = order.batch_rows(lengths, self._training.config, since, seed=self._training.seed)
        return [half[row] for row in rows]


class OnlyKnown(Hook):
    """Draws the facts of the arm that the base model recalls, at as many steps."""

    def __init__(self, config: Any, training: Training):
        self._recalled, self._training = training.questions.recalled, training

    def batch(self, step: int, drawn: list[Encoded]) -> list[Encoded]:
        lengths = [len(example.tokens) for example in self._recalled]
        rows = order.batch_rows(lengths, self._training.config, step, seed=self._training.seed)
        return [self._recalled[row] for row in rows]


class KnownWeight(Hook):
    """Weighs the losses of the arm's facts by knownness; those that replay repeats from elsewhere count 1.

    The loss has every fact once already: what is added is its weight less 1 times its loss.
    """

    def __init__(self, config: Remedies, training: Training):
        questions = training.questions
        weights = known_weights(questions.knownness, config.known_weight)
        self._weight = {one.tokens: weight for one, weight in zip(questions.own, weights.tolist(), strict=True)}

    def loss(
        self,
        tokens: Int[torch.Tensor, "example token"],
        labels: Int[torch.Tensor, "example token"],
        predicting: Float[torch.Tensor, "scored output"],
    ) -> Float[torch.Tensor, ""] | float:
        is_scored = labels != batch.IGNORED
        n_scored, place = is_scored.sum(1), torch.arange(labels.shape[1], device=labels.device)
        lengths = (is_scored * (place + 1)).amax(1).tolist()
        rows = (tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True))
        added = torch.tensor([self._weight.get(row, 1.0) - 1 for row in rows], device=labels.device)
        losses = functional.cross_entropy(predicting.float(), labels[is_scored], reduction="none")
        return (added.repeat_interleave(n_scored) * losses).sum()


class Replay(Hook):
    """Puts a fact of the best-known tenth in the place of each fact of a batch, at this chance."""

    def __init__(self, config: Remedies, training: Training):
        self._share, self._known, self._seed = config.replay, training.questions.known, training.seed

    def batch(self, step: int, drawn: list[Encoded]) -> list[Encoded]:
        rng = np.random.default_rng([self._seed, 12, step])
        is_repeated = rng.random(len(drawn)) < self._share
        repeated = rng.integers(len(self._known), size=len(drawn))
        pairs = zip(drawn, is_repeated, repeated, strict=True)
        return [self._known[row] if repeats else example for example, repeats, row in pairs]


class UpdateShare(Hook):
    """Ends with the base's weights and a share of what training added (Wortsman et al. 2022, "Robust fine-tuning").

    What an adapter adds is a product whose second factor begins at zero: that one is scaled.
    """

    def __init__(self, config: Any, training: Training):
        self._share = config.update_share
        trained = {name: value for name, value in training.network.named_parameters() if value.requires_grad}
        has_adapter = hasattr(training.network, "disable_adapter")
        self._trained = {name: value for name, value in trained.items() if not has_adapter or ".lora_B." in name}
        self._base = {name: value.detach().to("cpu", copy=True) for name, value in self._trained.items()}

    def end(self) -> None:
        with torch.no_grad():
            for name, value in self._trained.items():
                value.copy_(torch.lerp(self._base[name].to(value.device), value, self._share))


def _freeze(network: Any, names: Sequence[str]) -> None:
    """Let these weights take no gradient, before anything looks at what is trained."""
    for name in names:
        network.get_parameter(name).requires_grad_(False)


HOOKS: dict[str, Callable[[Any, Training], Hook]] = {
    "frozen": Frozen,
    "frozen_layers": FrozenLayers,
    "early_stopping": EarlyStopping,
    "until_loss": UntilLoss,
    "kl_weight": Kl,
    "only_known": OnlyKnown,
    "curriculum": Curriculum,
    "known_weight": KnownWeight,
    "replay": Replay,
    "update_share": UpdateShare,
}
"""What each remedy does, by the name of its setting; they look at the model, and batches go through them, in this
order: what is frozen comes first."""


def hooks(config: Remedies, training: Training) -> list[Hook]:
    """Return the hooks of the remedies that are on."""
    used = config_json.remedies(config)
    return [make(config, training) for name, make in HOOKS.items() if name in used]
