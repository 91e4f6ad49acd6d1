"""A world's pretraining text: sentences drawn by how often each fact is to be told, ready as padded tokens."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from transformers import PreTrainedTokenizerBase

from empirical.lm import batch, prompts
from empirical.lm.tokenizer import special_token_id
from empirical.worlds.world import World


@dataclass(frozen=True, eq=False)
class Corpus:
    """Every sentence once, as right-padded tokens, and the probability of each in a draw."""

    tokens: Int[np.ndarray, "sentence token"]
    length: Int[np.ndarray, " sentence"]
    probability: Float64[np.ndarray, " sentence"]

    def draw(self, n: int, generator: np.random.Generator) -> Int[np.ndarray, "draw token"]:
        """Return sentences drawn with replacement, no longer than the longest of them."""
        chosen = generator.choice(len(self.length), n, p=self.probability)
        return self.tokens[chosen, : self.length[chosen].max()]


def texts(world: World) -> list[str]:
    """Return every sentence of the world, of each fact its statements, then its question where it is asked."""
    return [text for fact in range(len(world.exposures)) for text in _of(world, fact)]


def vocabulary(world: World) -> list[str]:
    """Return what a tokenizer should learn from: the sentences, and the questions."""
    return texts(world) + [question(world, row) for row in range(len(world.exposures))]


def question(world: World, row: int) -> str:
    """Return a fact's question, in the format of finetuning, with its answer."""
    prompt = prompts.build(world.fact(row))
    return prompt.text + prompt.completion


def build(world: World, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """Return the sentences as tokens, each with the end token; a fact's paraphrases are equally likely.

    Of a fact that is asked, half of the draws are its question.
    """
    end = tokenizer.eos_token_id
    rows = [[*tokens, end] for tokens in tokenizer(texts(world), split_special_tokens=True)["input_ids"]]
    tokens = batch.pad_right(rows, special_token_id(tokenizer, "pad")).tokens.numpy().astype(np.int32)
    share = np.concatenate([_shares(world, fact) for fact in range(len(world.exposures))])
    return Corpus(tokens, np.array([len(row) for row in rows]), share / share.sum())


def _of(world: World, fact: int) -> list[str]:
    statements = [before + rest for before, rest in world.sentences(fact)]
    return statements + [question(world, fact)] if world.is_asked[fact] else statements


def _shares(world: World, fact: int) -> Float64[np.ndarray, " sentence"]:
    n, exposures = world.n_paraphrases, world.exposures[fact]
    if not world.is_asked[fact]:
        return np.full(n, exposures / n)
    return np.append(np.full(n, exposures / 2 / n), exposures / 2)
