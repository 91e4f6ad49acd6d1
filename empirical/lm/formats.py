"""How a model is asked and where its answer ends: as plain text, or in its tokenizer's chat template."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from core.errors import InputError
from core.facts.record import Fact
from empirical.lm import generate, prompts
from empirical.lm.prompts import AFTER, Encoded, Prompt

SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What templates are told where they ask: to answer at once, and one date for all days (Llama 3's own default)."""
ASKED, ANSWERED = "\ue000", "\ue001"
"""Messages that no template contains, by which a template's parts are found."""


@dataclass(frozen=True, eq=False)
class Format:
    """Plain text: `Question: …`, `Answer:`, the answer, the end token. A format of another kind overrides `build`."""

    tokenizer: PreTrainedTokenizerBase
    before: str = AFTER.strip()
    """The text right before an answer, after which an answer has the tokens that it has in a whole prompt."""
    gap: str = " "
    """What separates an answer from its prompt; the answer's first token may hold it."""
    end: int | None = None
    """The token that ends an answer in text that has its special tokens already; None: the tokenizer adds its own."""
    n_positions: int | None = None
    """How many tokens the model can read; None: any number."""

    @property
    def stop(self) -> frozenset[int]:
        """The tokens at which an answer ends."""
        return generate.stop_ids(self.tokenizer).union(() if self.end is None else (self.end,))

    def build(self, fact: Fact, shots: Sequence[Fact] = ()) -> Prompt:
        """Return the fact's question as a prompt, after other facts' answered questions."""
        return prompts.build(fact, shots)

    def encode(self, built: Sequence[Prompt], *, new_tokens: int = 0) -> list[Encoded]:
        """Return prompts of this format as tokens, those of training, generation and measurement alike.

        Args:
            new_tokens: How many may be generated after a prompt.

        Raises:
            InputError: as `prompts.encode`, or a prompt that is longer, with what follows, than the model can read.
        """
        encoded = prompts.encode(self.tokenizer, built, end=self.end)
        for prompt, one in zip(built, encoded, strict=True):
            needed = one.n_prompt + max(len(one.completion), new_tokens)
            if self.n_positions is not None and needed > self.n_positions:
                raise InputError(
                    f"fact {prompt.fact}: its question takes {one.n_prompt:,} tokens and its answer up to "
                    f"{needed - one.n_prompt:,}; {self.tokenizer.name_or_path} reads {self.n_positions:,} at most.\n"
                    "Leave it out of the facts, ask with fewer examples or answers of fewer tokens, or name another "
                    "model."
                )
        return encoded

    def ask(self, facts: Sequence[Fact], *, new_tokens: int = 0) -> list[Encoded]:
        """Return the facts' questions as tokens; InputError as `build` and `encode`."""
        return self.encode([self.build(fact) for fact in facts], new_tokens=new_tokens)


@dataclass(frozen=True, eq=False)
class Chat(Format):
    """The user's turn of the tokenizer's chat template, answered in the assistant's (`chat`)."""

    after: str = ""
    """What a rendered conversation has after its last question; `before` begins with it, up to its last blanks."""

    def build(self, fact: Fact, shots: Sequence[Fact] = ()) -> Prompt:
        """Return the question as the last of the user's turns, which `shots` are the earlier ones of.

        Raises:
            InputError: the template does not take these turns, or changes the question; a fact's text holds the name of
                a control token, which would be one.
        """
        asked = _message(fact)
        for one in (*shots, fact):
            _check_text(self.tokenizer, one)
        earlier = [text for shot in shots for text in (_message(shot).text, shot.answers[0])]
        rendered = _render(self.tokenizer, [*earlier, asked.text])
        stop = len(rendered) - len(self.after)
        start = stop - len(asked.text)
        if rendered[max(start, 0) :] != asked.text + self.after:
            raise _refusal(self.tokenizer, f"does not leave a question as it is: {asked.text[:60]!r}")
        question = (start + asked.question[0], start + asked.question[1])
        return Prompt(
            rendered[:stop] + self.before,
            self.gap + fact.answers[0],
            question,
            prompts.shifted(asked.subject, start),
            fact.id,
        )


def of(tokenizer: PreTrainedTokenizerBase, *, is_chat: bool) -> Format:
    """Return the format of a model that is asked in its chat template, or else as plain text; InputError as `chat`."""
    return chat(tokenizer) if is_chat else Format(tokenizer)


def chat(tokenizer: PreTrainedTokenizerBase) -> Chat:
    """Return the format of the tokenizer's chat template, read off two conversations that it renders.

    Where a template puts more before an answer than it puts where one is to be generated, that is part of the prompt.

    Raises:
        InputError: no template, one that refuses the turns of a user and an assistant or changes them, or whose answers
            end with no special token.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"--model.chat: the tokenizer of {tokenizer.name_or_path} has no chat template.\n"
            "Name a chat model, or leave the flag."
        )
    asked, answered = _render(tokenizer, [ASKED]), _render(tokenizer, [ASKED, ANSWERED])
    if asked.count(ASKED) != 1 or answered.count(ANSWERED) != 1:
        raise _refusal(tokenizer, "does not give question and answer once each")
    opened, tail = answered.split(ANSWERED)
    after = asked.partition(ASKED)[2]
    opening = (opened if opened.startswith(asked) else asked).partition(ASKED)[2]
    before = opening.rstrip(" ")
    return Chat(tokenizer, before, opening[len(before) :], _first_special(tokenizer, tail), after=after)


def _message(fact: Fact) -> Prompt:
    """Return what the user says, and where question and subject stand in it; templates strip it, so it is stripped."""
    if fact.choices:
        return prompts.multiple_choice(fact)
    asked = replace(fact, question=fact.question.strip())
    return Prompt(asked.question, fact.answers[0], (0, len(asked.question)), prompts.find_subject(asked))


def _render(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> str:
    """Return the conversation, the user's turn first; where the last is the user's, up to the assistant's answer."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    is_open = len(texts) % 2 == 1
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=is_open, **SETTINGS))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _refusal(tokenizer, f"does not take the turns of a user and an assistant alone ({reason})") from error


@lru_cache(maxsize=4)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the tokenizer's control tokens, which a text that has their names is not to make."""
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _check_text(tokenizer: PreTrainedTokenizerBase, fact: Fact) -> None:
    """Raise InputError if what a fact says would become a control token in a chat template."""
    said = _message(fact).text, fact.answers[0]
    for token in special_tokens(tokenizer):
        if any(token in text for text in said):
            raise InputError(
                f"--model.chat: fact {fact.id} ({fact.question[:60]!r}) has {token!r} in question or answer: a control "
                f"token of {tokenizer.name_or_path}.\nTake it out of the fact, or leave the flag: plain text is text."
            )


def _first_special(tokenizer: PreTrainedTokenizerBase, tail: str) -> int:
    """Return the special token that a text begins with, blanks aside; InputError if it begins otherwise."""
    special = special_tokens(tokenizer)
    first = max((token for token in special if tail.lstrip().startswith(token)), key=len, default=None)
    if first is None:
        raise _refusal(tokenizer, f"ends an answer with no special token, but {tail[:20]!r}")
    return special[first]


def _refusal(tokenizer: PreTrainedTokenizerBase, what: str) -> InputError:
    return InputError(
        f"--model.chat: the chat template of {tokenizer.name_or_path} {what}.\n"
        "Leave the flag, or name a model of another template."
    )
