"""A causal language model and its tokenizer: from the hub by id and revision, from a folder, or a peft adapter."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from peft.tuners import lora
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from core import writing
from core.config_json import setting
from core.console import note
from core.errors import InputError
from empirical.lm import files, formats, quantised, shape
from empirical.lm.cost import Throughput
from empirical.lm.formats import Format

BEGINNINGS = ("<s>", "<bos>", "<|begin_of_text|>", "<|begin▁of▁sentence|>")
"""Tokens that stand for nothing but the beginning of a text."""
WITH_BEGINNING = ("llama", "mistral", "mixtral", "ministral", "gemma", "gemma2", "gemma3", "gemma3_text", "llama4")
"""Types of models that are trained on texts that begin with such a token, where their tokenizer has one."""
Precision = Literal["auto", "float32", "mixed", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """Which model is finetuned."""

    name: str = ""
    """Hub id, checkpoint folder or GGUF file of the base model, or package:NAME of one that comes as a registry package
    (`python -m empirical weights`); empty: the study pretrains a small one itself."""
    revision: str | None = None
    """Commit, tag or branch on the hub; name one, so that a rerun loads the same weights."""
    precision: Precision = "auto"
    """`float32`; `mixed`: float32 weights, trained under bfloat16 autocast and measured as a bfloat16 copy; `bfloat16`:
    bfloat16 weights. `auto`: float32 on a processor; on a GPU mixed where all weights are trained, else bfloat16."""
    chat: bool = setting(False, is_later=True)
    """Ask in the chat template of the model's tokenizer, without a system message of ours: the question is the user's
    turn, the answer the assistant's, examples are earlier turns. Give it to every stage alike."""
    quantise: Literal["nf4"] | None = setting(None, is_later=True)
    """`nf4`: read the layers' weights in 4 bits (Dettmers et al. 2023, QLoRA; needs the package bitsandbytes), under an
    adapter, which is trained in float32. They are measured so, too."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A network on its device, and its tokenizer."""

    network: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None
    """The hub's, where one was asked for."""
    is_mixed: bool = False
    """Whether its float32 weights are trained under bfloat16 autocast, and measured in bfloat16."""
    is_chat: bool = False
    """Whether it is asked in its tokenizer's chat template."""
    throughput: Throughput | None = None
    """What its finetuning reached, where it was finetuned just now."""

    @cached_property
    def format(self) -> Format:
        """How it is asked; InputError for a chat template that will not do."""
        return replace(formats.of(self.tokenizer, is_chat=self.is_chat), n_positions=shape.positions(self.network))

    @property
    def is_quantised(self) -> bool:
        """Whether its weights are of a few bits, on the device where they were read: neither moved nor trained."""
        return bool(getattr(self.network, "is_quantized", False))

    @property
    def pad(self) -> int:
        """The padding token; the end token where the model has no embedding of its own for padding (never read)."""
        pad = cast(int, self.tokenizer.pad_token_id)
        n_embedded = cast(Any, self.network).get_input_embeddings().weight.shape[0]
        return pad if pad < n_embedded else cast(int, self.tokenizer.eos_token_id)


def device() -> torch.device:
    """Return the accelerator if there is one, else the processor."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def resolved(precision: Precision, *, trains_all: bool) -> Precision:
    """Return what `auto` means on this machine: bfloat16 weights would lose most of what a small rate adds to them."""
    if precision != "auto":
        return precision
    return "float32" if device().type == "cpu" else "mixed" if trains_all else "bfloat16"


def dtype(precision: Precision) -> torch.dtype:
    """Return the weights' type."""
    return torch.bfloat16 if resolved(precision, trains_all=False) == "bfloat16" else torch.float32


def quiet() -> None:
    """Leave the terminal to our own progress bar and messages."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|peft|torch")


def load(config: ModelConfig) -> LanguageModel:
    """Return the model in evaluation mode; a folder with an adapter is loaded on top of the base it names.

    Raises:
        InputError: no such model, a folder that is no checkpoint, an adapter of another base, a slow tokenizer, a GGUF
            file that cannot be converted, a package that was not fetched, a chat template that will not do.
    """
    if (made := files.converted(config.name)) is not None:
        return replace(load(replace(config, name=str(made))), name=config.name)
    folder = Path(config.name)
    if files.is_adapter(config.name):
        return _load_adapter(folder, config)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise files.no_checkpoint(folder)
    if not folder.exists() and (folder.is_absolute() or config.name.startswith(".") or config.name.count("/") > 1):
        raise InputError(f"{folder}: no such folder.\nName a checkpoint folder, or a hub id such as owner/name.")
    with files.library(config.name):
        if folder.is_dir():
            files.check(folder)
        settings = AutoConfig.from_pretrained(config.name, revision=config.revision)
    tokenizer = files.read_tokenizer(config.name, config.revision)
    formats.of(tokenizer, is_chat=config.chat)  # refused before the weights are read
    if told := _missing_beginning(config, settings, tokenizer):
        note(told)
    network = _network(config, settings)
    if not getattr(network, "is_quantized", False):  # such weights are where they are to be, and cannot be moved
        network = network.to(device=device())
    is_mixed = config.precision == "mixed"
    return LanguageModel(network.eval(), tokenizer, config.name, config.revision, is_mixed, config.chat)


def _network(config: ModelConfig, settings: Any) -> Any:
    """Return the model of a config, its weights as they are stored; InputError where it cannot be loaded."""
    # Its attention is PyTorch's fused one, or transformers' own where it has no other (Gemma 2, gpt-oss, BLOOM).
    options = {"revision": config.revision, "dtype": dtype(config.precision)}
    options |= {"config": settings, "output_loading_info": True}
    method = quantised.method(settings)
    if config.quantise:
        how = quantised.four_bits(config.quantise, config.name, method, computes=dtype(config.precision))
        options["quantization_config"] = how
    with files.library(config.name, files.WHOLE if method is None else quantised.remedy(method)):
        network, report = cast(Any, auto_class(settings).from_pretrained(config.name, **options))
        if missing := report["missing_keys"]:  # transformers would go on with random ones
            raise files.DamagedError(f"{len(missing)} weights are missing, {min(missing)} among them")
    quantised.keep_scales(network)
    return network


def auto_class(settings: Any) -> Any:
    """Return transformers' class of such a config's model: one that reads images too is given text alone."""
    kind = type(settings)
    reads_images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if reads_images else AutoModelForCausalLM


def _missing_beginning(config: ModelConfig, settings: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return what to say of a tokenizer that leaves out the token with which its model's texts began; None of others.

    A tokenizer that says itself that it adds none is believed where that token is the end's too (GPT-2, Qwen).
    """
    begin, stored = tokenizer.bos_token, get_tokenizer_config(config.name, revision=config.revision)
    if begin is None or settings.get_text_config().bos_token_id is None:
        return None
    says = stored.get("add_bos_token")
    is_trained = settings.model_type in WITH_BEGINNING and begin in BEGINNINGS and begin != tokenizer.eos_token
    if not (says or is_trained) or tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return None
    return (
        f"{config.name}: its tokenizer does not begin a text with {begin}, as the model's training did: it will know "
        "less than it could. Take tokenizer.json and tokenizer_config.json from the model's makers."
    )


def measured(model: LanguageModel) -> LanguageModel:
    """Return the model as it is measured: of mixed precision its weights, in place, in bfloat16, to be read only."""
    if not model.is_mixed or model.is_quantised:
        return model
    return replace(model, network=cast(Any, model.network).to(torch.bfloat16), is_mixed=False)


def read_only(model: LanguageModel) -> LanguageModel:
    """Return the model as it is `measured`, in place, its adapter added to weights in float32; to be read only.

    Added, an adapter costs a pass nothing. In bfloat16 it is left beside the weights: an update of less than half of a
    weight's last bit would be lost, which is most of them (docs/performance.md).
    """
    read = measured(model)
    for layer in _beside_single_weights(read):
        base = layer.get_base_layer()
        for name, weight in list(base.named_parameters(recurse=False)):  # new ones: a head may share the old
            setattr(base, name, torch.nn.Parameter(weight.detach().clone(), requires_grad=False))
        layer.merge()
    return read


@contextmanager
def measuring(model: LanguageModel) -> Iterator[LanguageModel]:
    """Let a finetuned model be `read_only`; after it the base's weights are as they were, bit for bit."""
    read = measured(model)
    layers = _beside_single_weights(read)
    kept = [(layer, dict(layer.get_base_layer().named_parameters(recurse=False))) for layer in layers]
    try:
        yield read_only(read)
    finally:
        for layer, weights in kept:
            for name, weight in weights.items():
                setattr(layer.get_base_layer(), name, weight)
            layer.merged_adapters.clear()


def _beside_single_weights(model: LanguageModel) -> list[Any]:
    """Return the layers in which an adapter is beside weights in float32."""
    layers = (one for one in model.network.modules() if isinstance(one, lora.Linear))
    return [one for one in layers if not model.is_quantised and one.get_base_layer().weight.dtype == torch.float32]


def merged(model: LanguageModel) -> LanguageModel:
    """Return the model with its adapter, if it has one, added to its weights in place.

    Raises:
        InputError: the weights are of a few bits, which would lose most of it.
    """
    if not isinstance(model.network, PeftModel):
        return model
    if model.is_quantised:
        raise InputError(f"{model.name}: its weights are quantised, and hold no adapter.\nName one on whole weights.")
    return replace(model, network=cast(Any, model.network).merge_and_unload())


def save(model: LanguageModel, path: Path, *, beside: Callable[[Path], object] = lambda folder: None) -> None:
    """Write the model, or its adapter alone, and the tokenizer as a folder: whole, or not at all.

    Args:
        beside: Writes into the folder what else belongs there.
    """
    with writing.folder_of(path) as partial:
        model.network.save_pretrained(str(partial))
        model.tokenizer.save_pretrained(partial)
        beside(partial)


def _load_adapter(folder: Path, config: ModelConfig) -> LanguageModel:
    """Return the base that the adapter names, with the adapter on it."""
    settings = folder / "adapter_config.json"
    try:
        stored = json.loads(settings.read_text(encoding="utf-8"))
        base, revision = files.base_of(folder, stored["base_model_name_or_path"] or folder), stored.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{settings}: names no base model; it is damaged.") from error
    if base.resolve() == folder.resolve():
        raise InputError(f"{settings}: names no base model.\nWrite its folder or hub id as base_model_name_or_path.")
    try:
        base_model = load(ModelConfig(str(base), revision, config.precision, quantise=config.quantise))
    except InputError as error:
        raise InputError(
            f"{folder}: the adapter's base cannot be loaded: {str(error).splitlines()[0]}\n"
            f"Put it back, or write where it is as base_model_name_or_path in {settings}."
        ) from error
    try:
        files.check(folder)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # else it would be left untrained
            network = PeftModel.from_pretrained(base_model.network, str(folder))
    except (*files.UNUSABLE, UserWarning) as error:
        raise InputError(
            f"{folder}: the adapter does not fit its base {base} ({files.reason(error)}).\n"
            f"Name the base that it was trained on as base_model_name_or_path in {settings}."
        ) from error
    return replace(base_model, network=network.eval(), name=str(folder), revision=None, is_chat=config.chat)
