"""How much is read at once: by what memory holds, without a change of what comes out."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from core.facts.record import Fact
from empirical import evaluate, heads, knownness, measure, mediation, processes
from empirical.evaluate import EvaluateConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import batch, logits, memory, order
from empirical.lm.model import LanguageModel
from empirical.lm.train_config import TrainConfig
from empirical.pieces import Pieces

FACTS = [Fact(str(i), f"S{i}", "job", f"What is the job of S{i}{', then' * (i % 5)}?", ("baker",)) for i in range(12)]
ASKED = EvaluateConfig(max_new_tokens=2)
N_TOKENS = 80


@pytest.fixture
def model(llama, words):
    return LanguageModel(llama, words, "made")


@pytest.fixture
def scarce(model, monkeypatch):
    """Let memory hold some N_TOKENS tokens of the model at once, and return the numbers of tokens of its passes."""
    monkeypatch.setattr(
        memory, "free", lambda device: int(2 * N_TOKENS * memory.per_token(model.network, 0.0, trains=False))
    )
    sizes: list[int] = []
    decoder: Any = model.network.get_decoder()
    decoder.register_forward_pre_hook(
        lambda module, args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    return sizes


def kept_for_backward(network: Any, n_tokens: int) -> int:
    """Return the bytes that a pass keeps for the backward pass, weights apart."""
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    tokens = torch.ones((2, n_tokens), dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, logits.only(network, torch.zeros_like(tokens, dtype=torch.bool)):
        network(input_ids=tokens, use_cache=False)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


@pytest.mark.parametrize("kind", ["llama", "llama with an adapter", "qwen3", "gpt2"])
def test_the_estimate_is_about_what_training_keeps(kind, llama, sizes):
    sizes = {**sizes, "hidden_size": 128, "intermediate_size": 344, "head_dim": 32}
    made = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=sizes["vocab_size"], n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
        ),
    }
    network: Any = made.get(kind, lambda: llama)()
    if kind.endswith("adapter"):
        network = get_peft_model(
            network, LoraConfig(target_modules="all-linear", lora_dropout=0.1, task_type="CAUSAL_LM")
        )
    network.train()
    kept = (kept_for_backward(network, 60) - kept_for_backward(network, 20)) / 80
    assert 0.4 < kept / memory.per_token(network, 0.0, trains=True) < 1.4


def test_less_memory_means_fewer_tokens_and_a_number_that_is_given_is_taken(llama, monkeypatch):
    found = []
    for free in (0, 10**5, 10**6, 10**8, 10**12):
        monkeypatch.setattr(memory, "free", lambda device, free=free: free)
        found.append(memory.tokens(llama, None, [10] * 4, [1] * 4, rows=4))
        assert memory.tokens(llama, 7, [10] * 4, [1] * 4, rows=4) == 7
    assert found[0] == 1 and found[-1] == batch.TOKENS and found == sorted(found) and len(set(found)) > 2
    assert all(n & (n - 1) == 0 for n in found)  # a little more or less memory is the same number
    assert memory.tokens(llama, None, [], [], rows=4) == batch.TOKENS


def test_gradients_moments_and_logits_are_counted(llama, monkeypatch):
    moments = 3 * sum(weight.nbytes for weight in llama.parameters())
    monkeypatch.setattr(memory, "free", lambda device: moments)
    assert memory.tokens(llama, None, [10], [1], rows=1, trains=True) == 1
    assert memory.tokens(llama.requires_grad_(False), None, [10], [1], rows=1, trains=True) > 1
    few, many = (memory.per_token(llama, share, trains=False) for share in (0.1, 1.0))
    assert many - few == pytest.approx(0.9 * 12 * llama.config.vocab_size)


def test_several_processes_share_the_memory_of_a_processor(monkeypatch):
    alone = memory.free(torch.device("cpu"))
    monkeypatch.setattr(processes, "count", lambda: 4)
    assert memory.free(torch.device("cpu")) < alone / 2


def test_a_batch_that_memory_makes_smaller_is_told_of_once(llama, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free", lambda device: 10**6)
    few = memory.tokens(llama, None, [1], [0], rows=64)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        memory.tokens(llama, None, [100] * 64, [0] * 64, rows=64)
    assert capsys.readouterr().err.count(f"{few:,} tokens") == 1


def test_every_measurement_is_the_same_in_batches_that_little_memory_holds(model, scarce, monkeypatch):
    with monkeypatch.context() as plenty:
        plenty.setattr(memory, "free", lambda device: 10**12)
        before, widest = _measured(model), max(scarce)
    scarce.clear()
    after = _measured(model)
    assert max(scarce) <= N_TOKENS < widest
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-5, err_msg=name)


def _measured(model: LanguageModel) -> dict[str, np.ndarray]:
    """Return what scoring, generation, attention and knockout, interventions and the trace say."""
    encoded = model.format.ask(FACTS, new_tokens=2)
    found = {
        measure_: knownness.score(
            KnownnessConfig(measure_, shots=1, n_prompts=1, max_new_tokens=2), model, FACTS, FACTS, seed=0
        ).value
        for measure_ in ("logprob", "greedy")
    }
    questions = _questions(encoded)
    arm = measure.arm("base", model, questions, None, ASKED)
    for name in ("answer_logprob", "knockout_drop", "subject_attention"):
        found[name] = np.asarray(arm.facts[name], dtype=float)
    found["cut"] = mediation.cut(model, None, mediation.Asked(ASKED, encoded))
    traced = measure.eval_subset(model.network, encoded, model.pad)
    found |= {name: np.array(value) for name, value in traced.items()}
    looking = heads.attribution.looking
    found["force"] = heads.each(
        ASKED, model, encoded, lambda own: looking(model.network, own).force(own.spans[:, 0]), lambda n: None
    )
    return found


def _questions(encoded: Any) -> measure.Questions:
    rows = np.arange(len(FACTS))
    nothing = np.zeros(len(FACTS))
    role = np.full(len(FACTS), 2, dtype=np.int8)
    return measure.Questions(FACTS, encoded, rows, rows * 0, nothing, role, rows, nothing.astype(bool), {}, 0)


def test_what_is_kept_of_an_interrupted_work_does_not_depend_on_free_memory(model, scarce, monkeypatch, tmp_path):
    encoded = model.format.ask(FACTS, new_tokens=2)
    whole = evaluate.answer(ASKED, model, FACTS, encoded, pieces=Pieces(tmp_path / "scarce"))
    monkeypatch.setattr(memory, "free", lambda device: 10**12)
    evaluate.answer(ASKED, model, FACTS, encoded, pieces=Pieces(tmp_path / "plenty"))
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("scarce", "plenty")]
    assert names[0] == names[1]
    again = evaluate.answer(ASKED, model, FACTS, encoded, pieces=Pieces(tmp_path / "scarce"))
    assert (again.logprob == whole.logprob).all()


def test_training_takes_more_passes_where_memory_holds_less(model, scarce):
    encoded = model.format.ask(FACTS)
    config = order.in_memory(TrainConfig(batch_size=12), model.network.requires_grad_(False), encoded)
    limit = config.micro_batch_tokens
    assert limit is not None and limit < N_TOKENS
    found = order.passes(encoded, config)
    assert [one for own in found for one in own] == list(encoded) and len(found) > 1
    assert all(len(own) == 1 or len(own) * max(len(one.tokens) for one in own) <= limit for own in found)
