"""Models that read images too, of random weights: text alone goes in, and nothing else is trained."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Mistral3Config, Mistral3ForConditionalGeneration

from core.facts.record import Fact
from empirical import attention, evaluate, finetune, knownness
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.knownness import KnownnessConfig
from empirical.lm import capture, model, reading, shape
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig

FACTS = [Fact(n, n, "r", f"Who is {n}{' then' * (i % 3)}?", (f"baker {i % 2}",)) for i, n in enumerate("ABCDEF")]


def _made(kind: str, sizes: dict[str, Any]) -> Any:
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen |= {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    if kind == "mistral3":
        settings = Mistral3Config(
            text_config=sizes | {"model_type": "mistral", "head_dim": 8},
            vision_config=seen | {"model_type": "pixtral", "head_dim": 8},
            image_token_index=5,
        )
        return Mistral3ForConditionalGeneration(settings)
    settings = Gemma3Config(text_config=sizes | {"head_dim": 8}, vision_config=seen, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(settings)


@pytest.fixture(params=["mistral3", "gemma3"])
def folder(request, sizes, words, tmp_path):
    """Return a checkpoint of random weights that is large enough to have opinions."""
    made = _made(request.param, sizes | {"initializer_range": 0.2})
    for of_model in (made, words):
        of_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_that_reads_images_is_scored_finetuned_saved_and_evaluated_on_text(method, folder, tmp_path):
    base = model.load(ModelConfig(str(folder)))
    asked = KnownnessConfig(measure="logprob", shots=1, n_prompts=1)
    assert (knownness.score(asked, base, FACTS, FACTS, seed=0).value < 0).all()
    encoded = base.format.ask(FACTS)
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    images = shape.not_of_text(base.network)
    assert images and all("vision" in name or "projector" in name for name in images)
    config = FinetuneConfig(
        method=method, lora=Lora(dropout=0.0), train=TrainConfig(epochs=6, batch_size=3, n_records=1)
    )
    options: dict[str, Any] = {"seed": 0, "work": tmp_path, "evaluate": lambda network: {}, "learning_rate": 1e-2}
    tuned, trace = finetune.run(config, base, encoded, **options)
    assert trace[-1]["loss"] < 0.8 * -np.mean(_logprob(model.load(ModelConfig(str(folder))), encoded))
    trained = [name for name, weight in tuned.network.named_parameters() if weight.requires_grad]
    assert trained and not any("vision" in name or "projector" in name for name in trained)
    if method == "full":
        assert all(torch.equal(tuned.network.get_parameter(name), before[name]) for name in images)
    model.save(tuned, tmp_path / "tuned")
    found = model.load(ModelConfig(str(tmp_path / "tuned")))
    assert np.allclose(_logprob(found, encoded), _logprob(tuned, encoded), atol=1e-5)
    answers = evaluate.answer(EvaluateConfig(max_new_tokens=4), found, FACTS, encoded)
    alone = evaluate.answer(EvaluateConfig(max_new_tokens=4, batch_size=1), found, FACTS, encoded)
    assert answers.predicted == alone.predicted
    assert capture.refusal(found.network) is None
    grams = capture.weighing(found.network)
    mass = attention.masses(found, reading.read(found.network, encoded, found.pad), grams=grams)["mass"]
    # Of the prompt's last token, beside eager attention's weights; without padding.
    network, one = model.merged(found).network, encoded[0]
    network.set_attn_implementation("eager")
    weights = network(torch.tensor([one.prompt]), output_attentions=True).attentions
    spans = torch.as_tensor(one.spans).float()
    eager = torch.stack([layer[0, :, -1] for layer in weights]) @ spans.T
    assert np.allclose(mass[0, 0], eager.detach().numpy(), atol=1e-5)


def _logprob(read: model.LanguageModel, encoded: Any) -> np.ndarray:
    return reading.logprob(read.network, reading.read(read.network, encoded, read.pad).questions).numpy()
