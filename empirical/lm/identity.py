"""What tells a model's weights from all others, so that nothing kept of them is taken for another's."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file, extract_commit_hash

from core import config_json
from empirical.lm import files
from empirical.lm import model as models
from empirical.lm.model import ModelConfig

SCHEMA = 1
"""Raised by one whenever what is kept of a model (scores, parts of a run, tables) changes its meaning."""
WEIGHTS = (".safetensors", ".bin")
"""How the names of files of weights end."""
RECORDS = (".parquet",)
"""The same of what a model was finetuned on, which decides what it may be asked."""
TOLD = ("pretraining.json",)
"""Files in a model's folder that say how it was made, how long it took, say."""


def of(config: ModelConfig) -> dict[str, Any]:
    """Return what everything that is kept of a model depends on, wherever its files are and whatever they are called.

    Raises:
        InputError: a package that was not fetched, or a file that cannot be converted.
    """
    quantised = {"quantise": config.quantise} if config.quantise else {}  # absent, it leaves the keys as they were
    return quantised | {
        # Of what cannot be told apart by its content the name is all there is; loading it says why.
        "weights": weights(config.name, config.revision) or f"{config.name}@{config.revision}",
        "precision": models.resolved(config.precision, trains_all=False),
        "chat": config.chat,
        "schema": SCHEMA,
    }


def weights(name: str, revision: str | None = None, *, is_local: bool = False) -> str | None:
    """Return the commit of a hub's model, or the SHA-256 of a folder's files; None where neither is to be had.

    An adapter's hash has its base's in it.

    Args:
        is_local: Nothing is asked of the hub, nor converted.
    """
    if (converted := None if is_local else files.converted(name)) is not None:
        name = str(converted)
    folder = Path(name)
    if not folder.is_dir():
        return _commit(name, revision, is_local=is_local)
    stamps = files.stamp(name, (*WEIGHTS, *RECORDS, *files.TOKENIZER_FILES))
    hashes = {one[0]: _digest(folder / one[0], *one[1:]) for one in stamps if one[0] not in TOLD}
    return config_json.config_hash([hashes, _base(folder)])


def _base(folder: Path) -> str | None:
    """Return the same of the base that a folder's adapter names; None of a model that is no adapter."""
    try:
        stored = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = files.base_of(folder, stored["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged, which loading it says
        return None
    return None if base.resolve() == folder.resolve() else weights(str(base), stored.get("revision"))


@lru_cache
def _digest(path: Path, *_: int) -> str:
    """Return the hash of a file; made again when its size or time changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def _commit(name: str, revision: str | None, *, is_local: bool) -> str | None:
    """Return the commit of the hub that a name stands for; None where it is not to be had."""
    try:
        found = cached_file(name, "config.json", revision=revision, local_files_only=is_local)
    except (OSError, ValueError):
        return None
    return extract_commit_hash(found, None)
