"""Small tokenizers of two kinds."""

import json
import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from empirical.lm import tokenizer

TEXTS = [
    "Question: What is Jane Doe's occupation?\nAnswer: sea pilot",
    "Question: Where was Bo Ek born?\nAnswer: Riga",
] * 5


@pytest.fixture(scope="session")
def byte_level():
    return tokenizer.train(TEXTS, size=340)


@pytest.fixture(scope="session")
def sentence_piece():
    """Return a tokenizer as Llama-2's: a blank becomes ▁, one is put before the text, and merges cross words."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    # Words are learnt apart, punctuation and blanks from them, so that no token spans several.
    learnt = [word for text in TEXTS for word in re.findall(r"▁?\w+|[^\w\s]", "▁" + re.sub(r"\s", " ▁", text))]
    marks = ["<unk>", "<s>", "</s>"]
    learner.train_from_iterator(learnt, trainers.BpeTrainer(vocab_size=160, special_tokens=marks, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    vocab = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
