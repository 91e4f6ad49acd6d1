"""Several texts in one row: each is read as if it were alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from core.errors import InputError
from core.facts.record import Fact
from empirical import finetune
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import batch, order, packed, prompts
from empirical.lm.model import LanguageModel
from empirical.lm.remedies import Ranked
from empirical.lm.step import loss_sum
from empirical.lm.train_config import TrainConfig

WINDOW = 6
SMALL: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4}


@pytest.fixture
def examples(words):
    """Return questions of several lengths, most of them longer than the window."""
    names = [n * (1 + i) for i, n in enumerate("ABCDEF")]
    facts = [Fact(n, n, "r", f"Who is {n}{' then' * (i % 3)}?", (f"baker {n}",)) for i, n in enumerate(names)]
    encoded = prompts.encode(words, [prompts.build(fact) for fact in facts])
    assert len({len(one.tokens) for one in encoded}) > 3 and len(encoded[0].tokens) > WINDOW
    return encoded


def _made(kind: str, sizes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    settings = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**sizes, sliding_window=WINDOW)),
        "qwen2": lambda: Qwen2ForCausalLM(
            Qwen2Config(**sizes, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
        ),
        "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8, sliding_window=WINDOW)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=sizes["vocab_size"], **SMALL)),
        "bloom": lambda: BloomForCausalLM(
            BloomConfig(vocab_size=sizes["vocab_size"], hidden_size=32, n_layer=2, n_head=4)
        ),
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(vocab_size=sizes["vocab_size"], hidden_size=32, num_hidden_layers=2)
        ),
        "lfm2": lambda: Lfm2ForCausalLM(Lfm2Config(**sizes, layer_types=["conv", "full_attention"])),
    }
    return settings[kind]().eval()


def _gradients(net: Any, inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    net.zero_grad()
    loss = loss_sum(net, *inputs)
    loss.backward()
    return loss.item(), {name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gemma3", "gpt2"])
def test_packed_rows_have_the_loss_and_gradients_of_padded_ones(kind, recomputes, sizes, examples):
    net = _made(kind, sizes | {"initializer_range": 0.3}).double()
    packed.check(net)
    if recomputes:
        net.train().gradient_checkpointing_enable()
        for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
            setattr(net.config, name, 0.0)
        for one in net.modules():
            if isinstance(one, torch.nn.Dropout):
                one.p = 0.0
    questions = batch.of_questions(examples, pad=2)
    inputs = questions.tokens, questions.labels
    expected, gradients = _gradients(net, inputs)
    with packed.attention(net):
        found, others = _gradients(net, inputs)
    assert found == pytest.approx(expected, rel=1e-9) and gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "lfm2"])
def test_a_model_that_would_let_texts_see_each_other_is_refused_before_it_is_trained(kind, sizes, words):
    base = LanguageModel(_made(kind, sizes), words, kind)
    config = FinetuneConfig(train=TrainConfig(packing=True))
    before = base.network.config._attn_implementation
    with pytest.raises(InputError, match=r"--finetune.train.packing: .* cannot read several texts in one row"):
        finetune.check_base(config, base)
    assert base.network.config._attn_implementation == before


@pytest.mark.parametrize(
    ("method", "remedy"),
    [("full", {"kl_weight": 0.5}), ("lora", {"kl_weight": 0.5, "known_weight": 1.0, "update_share": 0.7})],
)
def test_a_packed_training_is_the_padded_one_remedies_included(method, remedy, llama, words, examples, tmp_path):
    def run(**settings) -> tuple[dict[str, torch.Tensor], Any]:
        net = LlamaForCausalLM(llama.config)
        net.load_state_dict(llama.state_dict())
        config = FinetuneConfig(method=method, lora=Lora(dropout=0.0), **remedy)
        config = replace(config, train=TrainConfig(epochs=2, batch_size=4, n_records=1, **settings))
        ranked = Ranked(examples, examples[:1], examples[:2], torch.arange(6).double().numpy(), examples)
        options: Any = {"seed": 0, "work": tmp_path / f"{settings}", "evaluate": lambda network: {}, "ranked": ranked}
        base = LanguageModel(net.double(), words, "made")
        tuned, trace = finetune.run(config, base, examples, learning_rate=1e-3, **options)
        return finetune.trained(tuned), trace

    weights, trace = run()
    found, packed_trace = run(packing=True, micro_batch_tokens=40)
    assert packed_trace[-1]["loss"] == pytest.approx(trace[-1]["loss"], rel=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)


def test_a_pass_of_packed_rows_has_as_many_tokens_as_it_may_without_padding(examples):
    sizes: Any = {"rows": 9, "tokens": 24}
    assert batch.in_turn([2, 10, 2, 10, 9], **sizes, is_packed=True) == [range(4), range(4, 5)]
    assert batch.in_turn([2, 10, 2, 10, 9], **sizes) == [range(2), range(2, 4), range(4, 5)]
    config = TrainConfig(batch_size=6, micro_batch_tokens=100)
    found = order.passes(examples, config, is_packed=True)
    assert [one for own in found for one in own] == list(examples)
    assert all(sum(len(one.tokens) for one in own) <= 100 for own in found)
