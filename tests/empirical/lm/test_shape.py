from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from core.errors import InputError
from core.facts.record import Fact
from empirical import finetune, knownness
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import generate, prefix, reading, shape
from empirical.lm.formats import Format
from empirical.lm.model import LanguageModel
from empirical.lm.train import TrainConfig


def composite(words, window):
    """Return a small Gemma 3 that reads images too: its language model's config is nested."""
    sizes: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
    }
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2}
    text = Gemma3TextConfig(**sizes, sliding_window=window, layer_types=["sliding_attention"] * 2 + ["full_attention"])
    seen: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    seen |= {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text.to_dict(), vision_config=seen, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (LlamaConfig(), None),
        (MistralConfig(sliding_window=64), 64),
        (Qwen2Config(sliding_window=64, use_sliding_window=False), None),
        (Gemma3Config(text_config={"sliding_window": 20}), 20),
        (Llama4TextConfig(attention_chunk_size=128), 128),
    ],
)
def test_a_window_is_found_wherever_the_config_has_it(config, window):
    assert shape.window(PreTrainedModel(config)) == window


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (GPT2Config(n_positions=64), 64),
        (Gemma3Config(text_config={"max_position_embeddings": 300}), 300),
        (Qwen2Config(max_position_embeddings=512, rope_parameters={"rope_type": "linear", "factor": 4.0}), 2048),
    ],
)
def test_how_much_a_model_reads_is_in_its_config(config, limit):
    assert shape.positions(PreTrainedModel(config)) == limit


def test_a_composite_models_answers_after_a_shared_beginning_are_those_one_by_one(words):
    net, window = composite(words, window=24), 24
    assert shape.n_layers(net) == 3 and shape.window(net) == window
    shared = words("Where is Ann? She is in Rome. Where is Ben? He is in Ulm. Where is Cleo? She is in Oslo too.")
    texts = [[*shared["input_ids"], *words(f"Where is {name}?")["input_ids"]] for name in ("Bo", "Anabel", "Eve")]
    assert len(prefix.common(texts)) > window
    settings = {"stop": (), "pad": words.pad_token_id, "max_new_tokens": 6}
    alone = [generate.greedy(net, [text], **settings)[0] for text in texts]
    assert generate.greedy(net, texts, **settings) == alone


def test_a_composite_model_finetunes(words, tmp_path):
    model = LanguageModel(composite(words, window=24), words, "made")
    encoded = model.format.ask([Fact(n, n, "r", f"Who is {n}?", (f"baker {n}",)) for n in "ABCD"])
    before = reading.logprob(model.network, reading.read(model.network, encoded, model.pad).questions)
    config = FinetuneConfig(train=TrainConfig(epochs=4, batch_size=2, n_records=1))
    options = {"seed": 0, "work": tmp_path, "evaluate": lambda network: {}, "learning_rate": 1e-2}
    tuned, _ = finetune.run(config, model, encoded, **options)
    after = reading.logprob(tuned.network, reading.read(tuned.network, encoded, model.pad).questions)
    assert (after > before).all()


def test_a_question_longer_than_the_model_reads_is_refused_by_its_fact(llama, words):
    llama.config.max_position_embeddings = 40
    model = LanguageModel(llama, words, "made")
    short, long = (Fact(i, "Ann", "r", f"Who is Ann{' and so on' * n}?", ("baker",)) for i, n in (("5", 0), ("7", 9)))
    (encoded,) = model.format.ask([short])
    with pytest.raises(InputError, match=r"fact 7: its question takes \d+ tokens (.|\n)* reads 40 at most") as caught:
        model.format.ask([short, long])
    assert len(str(caught.value).splitlines()) == 2
    room = 40 - encoded.n_prompt
    assert model.format.ask([short], new_tokens=room)
    with pytest.raises(InputError, match="fact 5: .* up to 99"):
        model.format.ask([short], new_tokens=99)
    with pytest.raises(InputError, match="reads 40 at most"):  # examples count too
        model.format.encode([model.format.build(short, [long])])
    asked = KnownnessConfig(measure="greedy", shots=0, n_prompts=1, max_new_tokens=room)
    assert len(knownness.score(asked, model, [short], [], seed=0).value) == 1
    with pytest.raises(InputError, match=f"fact 5: .* up to {room + 1}"):
        knownness.score(replace(asked, max_new_tokens=room + 1), model, [short], [], seed=0)


def test_a_plain_format_of_a_tokenizer_alone_has_no_limit(words):
    assert Format(words).n_positions is None
