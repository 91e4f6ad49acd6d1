import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from empirical import finetune
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import batch, order, prompts, step, train
from empirical.lm.model import LanguageModel
from empirical.lm.step import loss_sum
from empirical.lm.train_config import TrainConfig


@pytest.fixture
def examples(words, tiny_world):
    facts = tiny_world.fact_set().facts[:20]
    return prompts.encode(words, [prompts.build(fact) for fact in facts])


def fit(net, examples, tmp_path, *, seed=0, rate=1e-3, **settings):
    config = replace(TrainConfig(epochs=2, batch_size=4, checkpoint_every=3), **settings)
    options = {"pad": 2, "seed": seed, "work": tmp_path, "evaluate": lambda network: {}}
    return train.fit(net, examples, config, learning_rate=rate, **options)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def loss(net, examples):
    questions = batch.of_questions(examples, pad=2)
    return loss_sum(net, questions.tokens, questions.labels).item()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_only_the_answers_tokens_and_the_end_are_scored(examples):
    questions = batch.of_questions(examples[:3], pad=2)
    for row, (labels, example) in enumerate(zip(questions.labels, examples[:3], strict=True)):
        assert labels[labels != batch.IGNORED].tolist() == list(example.completion)
        assert questions.tokens[row, : len(example.tokens)].tolist() == list(example.tokens)
        assert (labels[: example.n_prompt] == batch.IGNORED).all()


def test_the_end_is_scored_where_padding_is_the_end_too(words, examples):
    questions = batch.of_questions(examples[:3], pad=words.eos_token_id)
    for labels, example in zip(questions.labels, examples[:3], strict=True):
        scored = labels[labels != batch.IGNORED].tolist()
        assert scored == list(example.completion) and scored[-1] == words.eos_token_id


def test_the_loss_is_the_answers_and_nothing_elses(llama, examples):
    one = examples[0]
    logits = llama(torch.tensor([one.tokens])).logits[0].log_softmax(-1)
    places = range(one.n_prompt, len(one.tokens))
    expected = -torch.stack([logits[place - 1, one.tokens[place]] for place in places]).sum()
    assert loss(llama, [one]) == pytest.approx(expected.item(), rel=1e-5)


def test_padding_changes_no_ones_loss(llama, examples):
    together = loss(llama, examples)
    apart = sum(loss(llama, [one]) for one in examples)
    assert together == pytest.approx(apart, rel=1e-5)


def test_each_epoch_has_every_example_once_in_another_order():
    config = TrainConfig(batch_size=4)
    lengths = list(range(10))
    epochs = [[order.batch_rows(lengths, config, 3 * e + i, seed=1).tolist() for i in range(3)] for e in range(2)]
    for epoch in epochs:
        assert sorted(row for rows in epoch for row in rows) == lengths
    assert epochs[0] != epochs[1]
    assert order.n_steps(TrainConfig(epochs=2, batch_size=4), 10) == 6
    assert order.n_steps(TrainConfig(epochs=2, batch_size=4, steps=7), 10) == 7


def test_batches_are_of_similar_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 50, size=128).tolist()

    def spread(window):
        config = TrainConfig(batch_size=8, length_window=window)
        return np.mean([np.ptp(np.array(lengths)[order.batch_rows(lengths, config, i, seed=0)]) for i in range(16)])

    assert spread(8) < spread(1) / 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_training_ends_with_the_same_weights_bit_for_bit(llama, words, examples, tmp_path, method):
    """Dropout is on: in the adapter, or in the model's own attention."""
    llama.config.attention_dropout = 0.2
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.2
    config = FinetuneConfig(
        method=method, lora=Lora(dropout=0.3), train=TrainConfig(epochs=3, batch_size=4, checkpoint_every=4)
    )
    resumed_at = []

    def run(work, kill_at=None):
        base = LanguageModel(copy.deepcopy(llama), words, "small")

        def told(doing, share):
            resumed_at.append(share)
            if kill_at is not None and len(resumed_at) == kill_at:
                raise KeyboardInterrupt

        options = {"seed": 3, "work": work, "evaluate": lambda network: {}, "progress": told}
        net, trace = finetune.run(config, base, examples, learning_rate=1e-2, **options)
        return weights(net.network), trace

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", kill_at=10)
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    resumed_at.clear()
    found = run(tmp_path / "cut")
    assert resumed_at[0] == pytest.approx(9 / 15)  # after the checkpoint of step 8
    whole = run(tmp_path / "whole")
    assert same(whole[0], found[0]) and whole[1] == found[1]
    assert not same(whole[0], weights(llama) if method == "full" else {k: 0 * v for k, v in whole[0].items()})


@pytest.mark.parametrize("limit", [{"micro_batch_tokens": 60}, {"micro_batch_size": 3}, {"micro_batch_tokens": 1}])
def test_a_step_in_several_passes_is_the_step_in_one(llama, examples, tmp_path, monkeypatch, limit):
    read, made = step.answer_logits, []
    monkeypatch.setattr(step, "answer_logits", lambda net, *given: made.append(given[0].numel()) or read(net, *given))
    nets = [copy.deepcopy(llama) for _ in range(2)]
    losses = [
        fit(net, examples, tmp_path / str(i), epochs=2, batch_size=8, **more)[-1]["loss"]
        for i, (net, more) in enumerate(zip(nets, ({}, limit), strict=True))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    n_whole = 2 * -(-len(examples) // 8)
    assert len(made) - n_whole > n_whole
    if (most := limit.get("micro_batch_tokens", 0)) > 1:
        assert max(made[n_whole:]) <= most


def test_passes_hold_each_example_once_in_turn(examples):
    found = order.passes(examples, TrainConfig(batch_size=64, micro_batch_tokens=60))
    assert [one for own in found for one in own] == list(examples) and len(found) > 1
    assert order.passes(examples[:3], TrainConfig()) == [list(examples[:3])]
    assert order.passes([], TrainConfig()) == []


@pytest.mark.parametrize(("method", "kind"), [("full", torch.float32), ("lora", torch.bfloat16)])
def test_all_that_is_trained_is_in_single_precision(method, kind, llama, words, examples, tmp_path, monkeypatch):
    """Gradients and moments too: under `mixed`, where every weight is trained, and of an adapter on a bfloat16 base."""
    seen, adamw = [], torch.optim.AdamW

    class Watched(adamw):
        def step(self, closure=None):
            super().step()
            trained = [value for group in self.param_groups for value in group["params"]]
            for value in trained:
                moments = [kept for kept in self.state[value].values() if kept.numel() > 1]
                seen.append([one.dtype for one in (value, value.grad, *moments)])

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    base = LanguageModel(llama.to(kind), words, "made", is_mixed=method == "full")
    passes = []
    llama.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, __, out: passes.append(out.dtype))
    config = FinetuneConfig(method=method, train=TrainConfig(epochs=1, batch_size=10, n_records=1))
    options: dict = {"seed": 0, "work": tmp_path, "evaluate": lambda network: {}}
    tuned, trace = finetune.run(config, base, examples, learning_rate=1e-3, **options)
    trained = [value for value in tuned.network.parameters() if value.requires_grad]
    assert len(seen) == 2 * len(trained) and all(types == [torch.float32] * 4 for types in seen)
    assert set(passes) == {torch.bfloat16} and trace[-1]["loss"] > 0
    frozen = {value.dtype for value in tuned.network.parameters() if not value.requires_grad}
    assert frozen == (set() if method == "full" else {torch.bfloat16})
