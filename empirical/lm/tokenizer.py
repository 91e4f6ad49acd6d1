"""A byte-level BPE tokenizer of our own, as a fast tokenizer of transformers: any text, no unknown token."""

from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from core.errors import InputError

BEGIN, END, PAD = "<s>", "</s>", "<pad>"


def special_token_id(tokenizer: PreTrainedTokenizerBase, role: Literal["bos", "eos", "pad"]) -> int:
    """Return the id of the token that begins, ends or pads a text; InputError where the tokenizer has none."""
    token = getattr(tokenizer, f"{role}_token_id")
    if token is None:
        raise InputError(f"the tokenizer of {tokenizer.name_or_path} has no {role} token.\nName another model.")
    return int(token)


def train(texts: Iterable[str], *, size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most `size` tokens, learnt from these texts; it puts BEGIN first and adds no END."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, begin)]
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD)
