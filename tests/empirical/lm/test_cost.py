"""Operations against PyTorch's own counter, and what a meter sees of passes with and without padding."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from core.facts.record import Fact
from empirical import evaluate, finetune
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import batch, cost, logits
from empirical.lm.cost import Meter, Work
from empirical.lm.model import LanguageModel
from empirical.lm.step import loss_sum
from empirical.lm.train_config import TrainConfig

FACTS = [Fact(str(i), f"S{i}", "job", f"What is the job of S{i}{', then' * i}?", ("baker",)) for i in range(6)]


@pytest.fixture
def model(llama, words):
    llama.set_attn_implementation("eager")  # the counter does not know the processor's fused attention
    return LanguageModel(llama, words, "made")


def counted(model, encoded, pad, *, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        for example in encoded:  # one at a time: padding costs too
            questions = batch.of_questions([example], pad)
            loss = loss_sum(model, questions.tokens, questions.labels)
            if backward:
                loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "adapter", "frozen layer"])
def test_operations_are_those_that_pytorch_counts(kind, model, words):
    network = model.network
    if kind == "gpt2":
        sizes: dict = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
        network = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes))
        network.set_attn_implementation("eager")
    if kind == "adapter":
        network = finetune.with_adapter(Lora(rank=4, dropout=0.0), network, "made")
    if kind == "frozen layer":
        network.model.layers[1].requires_grad_(False)
    network.enable_input_require_grads()  # else the first layer's input needs no gradient, and one product is left out
    encoded, found = model.format.ask(FACTS), cost.operations(network)
    work = cost.of_training(encoded)
    forward = counted(network, encoded, model.pad, backward=False)
    assert found.forward(work) == pytest.approx(forward, rel=2e-3)  # rotary angles are a product too, a small one
    both = counted(network, encoded, model.pad, backward=True)
    assert found.training(work) == pytest.approx(both, rel=2e-3)
    share = both / forward
    assert share == pytest.approx({"adapter": 2.2, "frozen layer": 2.55}.get(kind, 3.0), abs=0.15)


def test_a_meter_counts_what_passes_read_and_not_padding(model):
    encoded = model.format.ask(FACTS)
    meters = []
    for rows in (1, len(FACTS)):
        meter = Meter(model.network.device)
        fresh = type(model.network)(model.network.config).eval()
        fresh.load_state_dict(model.network.state_dict())
        meter.watch(fresh, model.pad)
        asked = LanguageModel(fresh, model.tokenizer, "made")
        evaluate.answer(EvaluateConfig(max_new_tokens=1, batch_size=rows), asked, FACTS, encoded)
        reached = meter.throughput("evaluation", len(FACTS))
        assert reached and reached.flops == cost.operations(fresh).forward(meter.work)
        meters.append(meter.work)
    assert meters[0] == meters[1]
    # The prompt but its last token, that one with the answer's, and that one again for what the model says itself.
    expected = sum((e.n_prompt - 1) + (1 + len(e.completion)) + 1 for e in encoded)
    assert meters[0].n_tokens == expected
    assert meters[0].n_scored == sum(len(e.completion) + 1 for e in encoded)


def test_a_meter_counts_passes_without_a_mask_by_their_padding_and_logits_where_they_are(model):
    meter = Meter(model.network.device)
    meter.watch(model.network, model.pad)
    tokens = torch.tensor([[5, 6, 7, model.pad], [5, 6, model.pad, model.pad]])
    with torch.no_grad(), logits.only(model.network, tokens == 6):
        model.network(input_ids=tokens)
    reached = meter.throughput("reading", 2)
    assert reached and meter.work == Work(5, 13, 2)
    assert reached.seconds > 0 and reached.utilisation > 0 and reached.peak_bytes > 1e7


def test_finetuning_says_and_keeps_what_it_reached(model, tmp_path, capsys):
    encoded = model.format.ask(FACTS)
    config = FinetuneConfig(train=TrainConfig(epochs=2, batch_size=4))
    options: dict = {"seed": 0, "work": tmp_path, "evaluate": lambda network: {}}
    tuned, _ = finetune.run(config, model, encoded, learning_rate=1e-3, **options)
    assert tuned.throughput is not None
    found = tuned.throughput.report()
    assert found["facts"] == 2 * len(FACTS) and found["tokens"] == 2 * cost.of_training(encoded).n_tokens
    assert found["flops"] == cost.operations(tuned.network).training(cost.of_training(encoded).times(2))
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    assert 0 < found["utilisation"] and found["dtype"] == "float32"
    told = " ".join(capsys.readouterr().err.split())
    assert "facts/s" in told and "tokens/s" in told and "Gflop/s of float32 products" in told
