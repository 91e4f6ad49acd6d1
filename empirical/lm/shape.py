"""What a model's config says of its language model: also of one that reads images too, whose config is nested."""

from typing import Any

from peft import PeftModel
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

Model = PreTrainedModel | PeftModel


def text(model: Model) -> PreTrainedConfig:
    """Return the config of the part that reads and writes text."""
    return model.config.get_text_config()


def not_of_text(model: Model) -> list[str]:
    """Return the names of the weights that no text passes through: what reads images, if there is any."""
    if text(model) is model.config:
        return []
    parts: list[Any] = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    of_text = {id(weight) for part in parts for weight in part.parameters()}
    return [name for name, weight in model.named_parameters() if id(weight) not in of_text]


def n_layers(model: Model) -> int:
    """Return the number of layers."""
    return text(model).num_hidden_layers


def n_heads(model: Model) -> int:
    """Return the number of attention heads of a layer."""
    return text(model).num_attention_heads


def window(model: Model) -> int | None:
    """Return how many tokens back some of the model's layers look at most; None: all do as far as there are any.

    Llama 4's chunks are counted with them: a token looks back to the beginning of its chunk.
    """
    config = text(model)
    widths = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((width for width in widths if width), default=None)


def positions(model: Model) -> int | None:
    """Return how many tokens the model can read, its rotary embedding stretched as its config says; None: any number.

    A table of positions ends there; a rotary embedding goes on, and means nothing that was trained.
    """
    config = text(model)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    stretched: Any = getattr(config, "rope_parameters", None) or {}
    factor, first = stretched.get("factor"), stretched.get("original_max_position_embeddings")
    return max(limit, int(factor * (first or limit))) if factor else limit


def keeps_states(model: Model) -> bool:
    """Return whether layers keep a state in place of keys and values, as of Qwen3-Next or LFM2.

    What such a model has read can be neither repeated for a batch nor parted by rows, and padding before a text is a
    part of it.
    """
    layers = DynamicCache(config=model.config).layers
    return not all(hasattr(layer, "batch_repeat_interleave") for layer in layers)
