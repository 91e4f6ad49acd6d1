"""A stored model's files, its weights apart: where they are, its tokenizer, and what is said if they cannot be read."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from core.errors import InputError
from empirical import packages
from empirical.lm import gguf


class DamagedError(Exception):
    """A file of a checkpoint does not hold what it should."""


UNUSABLE = (
    *(OSError, ValueError, RuntimeError, ImportError, SafetensorError, StrictDataclassError),
    *(pickle.UnpicklingError, EOFError, DamagedError),
)
"""What libraries raise for a model that is not there, of another kind, or of other shapes than its config says.

Files that are damaged are found before (`check`): they would raise anything. Nothing of our own stands where
these are caught (`library`).
"""
WHOLE = (
    "Name a folder that save_pretrained wrote whole, or a hub id that is cached or can be reached; for a model behind "
    "a licence, accept it there and set HF_TOKEN."
)
"""What to do where a model cannot be loaded."""
TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt")
"""How the names of a tokenizer's files end: tokenizer.json, vocab.json and merges.txt, tokenizer.model, templates."""


@contextmanager
def library(name: str, remedy: str = WHOLE) -> Iterator[None]:
    """Turn what a library raises for a model that it cannot load into an InputError; a call each, nothing of ours."""
    try:
        yield
    except torch.OutOfMemoryError:  # the model is as it should be
        raise
    except UNUSABLE as error:
        raise InputError(f"{name}: cannot be loaded as a causal language model ({reason(error)}).\n{remedy}") from error


def converted(name: str) -> Path | None:
    """Return the checkpoint folder made of a package or a GGUF file, now if it is not there; None of any other name.

    Raises:
        InputError: a package that was not fetched, or a file that cannot be converted.
    """
    if name.startswith(packages.PREFIX):
        return packages.folder(name.removeprefix(packages.PREFIX))
    return gguf.convert(Path(name)) if name.endswith(".gguf") else None


def is_adapter(name: str) -> bool:
    """Return whether a model's name is that of an adapter's folder."""
    return (Path(name) / "adapter_config.json").exists()


def no_checkpoint(folder: Path) -> InputError:
    """Return what to say of a folder that is none, which may hold a file that can be read."""
    if files := sorted(folder.glob("*.gguf")):
        return InputError(
            f"{folder}: no checkpoint, but a GGUF file ({', '.join(file.name for file in files)}).\n"
            f"Name the file itself: {files[0]}"
        )
    return InputError(
        f"{folder}: no checkpoint (it has neither config.json nor adapter_config.json).\n"
        "Name a folder that save_pretrained wrote, or a hub id."
    )


def base_of(folder: Path, name: str | Path) -> Path:
    """Return where an adapter's base is: a relative path is from the adapter, from beside it, or as if typed here."""
    beside = (start / name for start in (folder, folder.parent))
    return next((path for path in beside if path.suffix == ".gguf" or (path / "config.json").exists()), Path(name))


def read_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer by the model's name; InputError where it cannot be read."""
    name = str(converted(model) or model)
    with library(name):
        return _tokenizer(name, revision, stamp(name, TOKENIZER_FILES))


def with_pad(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a padding token, the end token where it has none of its own (masked, so never read)."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@lru_cache(maxsize=4)
def _tokenizer(name: str, revision: str | None, files: tuple[tuple[str, int, int], ...]) -> PreTrainedTokenizerBase:
    """Return the tokenizer, kept for the next load: one of 262,000 tokens takes seconds, and a study loads many times.

    Args:
        files: Tells the files of a folder from those that were there before.
    """
    if files:
        _check_tokenizer(Path(name) / "tokenizer.json")
    return with_pad(AutoTokenizer.from_pretrained(name, revision=revision))


def stamp(name: str, endings: tuple[str, ...] | None = None) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of a folder's files, or of those that end so; nothing of a hub id."""
    folder = Path(name)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    chosen = [file for file in files if endings is None or file.suffix in endings]
    return tuple((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in chosen)


def _check_tokenizer(path: Path) -> None:
    """Raise DamagedError if the file is damaged."""
    if path.exists():
        try:
            Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise DamagedError(f"tokenizer.json is damaged: {reason(error)}") from error


def check(folder: Path) -> None:
    """Raise one of UNUSABLE if a file of the checkpoint, its tokenizer apart, cannot be read."""
    for name in ("config.json", "adapter_config.json", "tokenizer_config.json", "generation_config.json"):
        path = folder / name
        if path.exists() and not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            raise DamagedError(f"{name} is not a JSON object")
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt"):
            pass


def reason(error: Exception) -> str:
    """Return the first line of what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
