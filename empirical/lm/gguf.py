"""A GGUF file (llama.cpp's format, quantised) as an ordinary checkpoint folder: dequantised once, kept by its hash.

transformers reads the file, but refuses to save the model that it read. So the plain config and the float32 weights
are written here, as `save_pretrained` would have, and the tokenizer is held against the file's own metadata.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from core import lock
from core.errors import InputError

MAGIC = b"GGUF"
SPECIAL = ("bos", "eos", "unknown", "padding")
"""The special tokens that a file may name, `tokenizer.ggml.NAME_token_id`."""
MEMORY_FACTOR = 2.5
"""Peak memory of a conversion over that of the float32 weights: the reader holds a tensor twice, the state once."""


def cache() -> Path:
    """Return where converted models are kept: beside the hub's own cache, so that HF_HOME moves both."""
    return Path(constants.HF_HOME) / "finetuning-facts"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait for processes that make this file or folder of the cache, and let others wait; InputError as `lock.held`."""
    with lock.held(cache() / ".locks" / name, wait=True, setting="HF_HOME"):
        yield


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read once while its size and time stay: a study loads its model for every arm."""
    stat = path.stat()
    return _digest(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(path: Path) -> Path:
    """Return the checkpoint folder of a GGUF file, made now unless it is there; of several processes one makes it.

    Raises:
        InputError: no such file, one that is damaged or of an architecture that transformers does not read, a tokenizer
            that is not the file's, or too little memory.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.\nName a GGUF file, a checkpoint folder or a hub id.")
    folder = cache() / f"gguf-{digest(path)[:16]}"
    if (folder / "config.json").exists():
        return folder
    metadata, n_parameters = _inspect(path)
    with alone(folder.name):
        if folder.exists():  # another process has made it meanwhile
            return folder
        _check_memory(path, n_parameters)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
        partial.mkdir(parents=True)
        try:
            _write(path, metadata, partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _inspect(path: Path) -> tuple[dict[str, Any], int]:
    """Return the file's metadata and its number of parameters; InputError for one that is cut off or no GGUF."""
    from gguf import GGUFReader

    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(f"{path}: not a GGUF file.\nName one that llama.cpp wrote, or a checkpoint folder.")
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        sizes = [int(np.prod(tensor.shape)) for tensor in reader.tensors]
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path}: the file is damaged or cut off ({str(error).splitlines()[0][:120]}).\nFetch it anew."
        ) from error
    return metadata, sum(sizes)


def _check_memory(path: Path, n_parameters: int) -> None:
    needed, free = MEMORY_FACTOR * 4 * n_parameters, psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{path}: its {n_parameters / 1e6:,.0f} million parameters take about {needed / 1e9:.1f} GB while they are "
            f"converted, and {free / 1e9:.1f} GB are free.\nFree some, or convert it on a larger machine."
        )


def _write(path: Path, metadata: Mapping[str, Any], folder: Path) -> None:
    """Write config, weights and tokenizer into the folder."""
    given: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32, output_loading_info=True)
        network, report = read
        tokenizer = AutoTokenizer.from_pretrained(**given)
    except (ValueError, KeyError, NotImplementedError, OSError, RuntimeError) as error:
        kind = metadata.get("general.architecture")
        raise InputError(
            f"{path}: transformers cannot read this file of the architecture {kind!r} ({str(error).splitlines()[0]}).\n"
            "Name a file of another model, or a checkpoint folder."
        ) from error
    if absent := sorted(report["missing_keys"]):
        raise InputError(f"{path}: {len(absent)} weights are missing, {absent[0]} among them.\nFetch it anew.")
    check_tokenizer(path, tokenizer, metadata)
    settings = {name: value for name, value in network.config.to_dict().items() if name != "quantization_config"}
    plain = AutoConfig.for_model(**settings)
    plain.architectures = [type(network).__name__]
    plain.save_pretrained(folder)
    tied = set(network._tied_weights_keys or ()) if plain.tie_word_embeddings else set()
    weights = {name: value.contiguous() for name, value in network.state_dict().items() if name not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def check_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> None:
    """Raise InputError unless the rebuilt tokenizer has the file's tokens, special tokens and beginning."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens or not tokenizer.is_fast:
        raise InputError(f"{path}: no tokenizer can be rebuilt from it.\nName a checkpoint folder with its tokenizer.")
    vocabulary = tokenizer.get_vocab()
    wrong = [token for index, token in enumerate(tokens) if vocabulary.get(token, index) != index]
    if wrong or len(vocabulary) < 0.99 * len(tokens):
        raise InputError(
            f"{path}: the rebuilt tokenizer has {len(vocabulary):,} tokens where the file has {len(tokens):,}, and "
            f"{len(wrong)} have another number.\nName a checkpoint folder with its tokenizer."
        )
    ours = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for name in SPECIAL:
        expected, found = metadata.get(f"tokenizer.ggml.{name}_token_id"), getattr(tokenizer, f"{ours[name]}_token_id")
        if expected is not None and found is not None and int(expected) != found:
            raise _other(path, f"its {name} token is {expected}, and the rebuilt tokenizer's {found}")
    begins = metadata.get("tokenizer.ggml.add_bos_token")
    first = tokenizer("a")["input_ids"][0]  # type: ignore[index]
    if begins is not None and bool(begins) != (first == tokenizer.bos_token_id):
        raise _other(path, f"whether texts begin with {tokenizer.bos_token} is not as the file says")


def _other(path: Path, difference: str) -> InputError:
    return InputError(
        f"{path}: transformers {transformers.__version__} rebuilds another tokenizer: {difference}.\n"
        "Install a later one (5.23 does it right), or name a checkpoint folder with its tokenizer."
    )
