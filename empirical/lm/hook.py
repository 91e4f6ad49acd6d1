"""The one place where something else than the loss may change the training loop: what a remedy overrides."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int

from empirical.lm.prompts import Encoded


class Hook:
    """A remedy's part in the training loop; as it stands, it changes nothing.

    What a hook returns is a function of its arguments and of the steps recorded so far, so that a resumed training sees
    the same.
    """

    def batch(self, step: int, drawn: list[Encoded]) -> list[Encoded]:
        """Return what a step trains on, given what it would train on otherwise."""
        return drawn

    def loss(
        self,
        tokens: Int[torch.Tensor, "example token"],
        labels: Int[torch.Tensor, "example token"],
        predicting: Float[torch.Tensor, "scored output"],
    ) -> Float[torch.Tensor, ""] | float:
        """Return what is added to the loss, summed over the answers' tokens.

        Args:
            labels: The answers' tokens; all others are `batch.IGNORED`.
            predicting: The model's logits that predict these, example by example.
        """
        return 0.0

    def record(self, step: int) -> None:
        """Look at the model after a recorded step, the start (0) among them."""

    def end(self) -> None:
        """Change the model after the last step."""

    def state(self) -> Any:
        """Return what a checkpoint keeps of the steps so far: tensors, numbers, and dicts and lists of them."""
        return None

    def resume(self, state: Any) -> None:
        """Take up a checkpoint's state."""


def drawn(hooks: Sequence[Hook], step: int, examples: list[Encoded]) -> list[Encoded]:
    """Return what a step trains on, each hook changing what those before it left."""
    for hook in hooks:
        examples = hook.batch(step, examples)
    return examples
