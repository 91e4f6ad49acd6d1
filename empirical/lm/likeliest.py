"""How probable a model finds its greedy answers, kept while it says them: a pass over what it said would cost more."""

from collections.abc import Collection

import torch
from jaxtyping import Int
from transformers import LogitsProcessor


class Likeliest(LogitsProcessor):
    """Adds up the log-probabilities of the likeliest tokens, row by row, in nats; the scores stay as they are.

    A row ends with whichever stop token comes first: with the probability of all of them together.
    """

    def __init__(self, stop: Collection[int], n_rows: int) -> None:
        self.stop = torch.tensor(sorted(stop), dtype=torch.long)
        self.logprob = torch.zeros(n_rows)
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = scores[:, self.stop.to(scores.device)].logsumexp(-1)
        self._steps.append(torch.stack([scores.max(-1).values, ends]) - scores.logsumexp(-1))
        return scores

    def end_turn(self, rows: Int[torch.Tensor, " going"], new: Int[torch.Tensor, "going step"]) -> None:
        """Add the steps since the last turn to these rows, up to their stop tokens."""
        goes_on, ends = torch.stack(self._steps[: new.shape[1]], dim=-1)
        self._steps.clear()
        is_end = torch.isin(new, self.stop.to(new.device))
        is_after = is_end.cumsum(1) - is_end.long() > 0
        self.logprob = self.logprob.to(new.device)
        self.logprob[rows] += torch.where(is_end, ends, goes_on).masked_fill(is_after, 0).sum(1)
