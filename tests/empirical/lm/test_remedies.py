"""What each remedy does to a language model's training: the rows it draws, the term it adds, the state it keeps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.remedies import known_weights
from empirical import finetune
from empirical.finetune import FinetuneConfig, Lora
from empirical.lm import batch, order, prompts, remedies
from empirical.lm.hook import Hook
from empirical.lm.model import LanguageModel
from empirical.lm.remedies import Ranked, Training
from empirical.lm.step import answer_logits, loss_sum, take_step
from empirical.lm.train_config import TrainConfig

QUICK = FinetuneConfig(
    lora=Lora(rank=2, dropout=0.3), train=TrainConfig(epochs=3, batch_size=4, checkpoint_every=4, n_records=5)
)


@pytest.fixture(scope="module")
def ranked(tiny_world, words) -> Ranked:
    """Return an arm of twenty facts, two that are known best, and ten dev facts."""
    encoded = prompts.encode(words, [prompts.build(fact) for fact in tiny_world.fact_set().facts[:32]])
    return Ranked(encoded[2:22], encoded[:2], encoded[22:], -np.arange(20.0))


def training(ranked, network=None, config=QUICK, seed=0) -> Training:
    return Training(network, ranked, config.train, 2, seed)


def batches(config, ranked, seed=0):
    """Return what each step of a training is given."""
    one = training(ranked, config=config, seed=seed)
    hooks = remedies.hooks(config, one)
    lengths = [len(example.tokens) for example in ranked.own]
    drawn = []
    for step in range(one.n_steps):
        rows = order.batch_rows(lengths, config.train, step, seed=seed)
        chosen = [ranked.own[row] for row in rows]
        for hook in hooks:
            chosen = hook.batch(step, chosen)
        drawn.append([example.tokens for example in chosen])
    return drawn


def run(config, llama, words, ranked, work, **options):
    base = LanguageModel(copy.deepcopy(llama), words, "small")
    options = {"learning_rate": 1e-2, "seed": 3, "work": work, "evaluate": lambda network: {}} | options
    tuned, trace = finetune.run(config, base, ranked.own, ranked=ranked, **options)
    return {name: value.clone() for name, value in tuned.network.state_dict().items()}, trace


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def tokens(examples):
    return {example.tokens for example in examples}


def test_a_training_without_remedies_has_no_hook(ranked):
    assert remedies.hooks(QUICK, training(ranked)) == []


def test_a_hook_that_overrides_nothing_changes_no_bit(llama, words, ranked, tmp_path, monkeypatch):
    plain = run(QUICK, llama, words, ranked, tmp_path / "plain")
    monkeypatch.setattr(finetune.remedies, "hooks", lambda config, one: [Hook()])
    hooked = run(QUICK, llama, words, ranked, tmp_path / "hooked")
    assert same(plain[0], hooked[0]) and plain[1] == hooked[1]


@pytest.mark.parametrize("order", ["known_first", "known_last"])
def test_each_half_of_the_steps_draws_one_half_of_the_arm_whole(order, ranked):
    drawn = batches(replace(QUICK, curriculum=order), ranked)
    halves = tokens(ranked.own[:10]), tokens(ranked.own[10:])
    first, second = halves if order == "known_first" else halves[::-1]
    assert len(drawn) == 15
    assert {row for rows in drawn[:8] for row in rows} == first
    assert {row for rows in drawn[8:] for row in rows} == second


def test_of_the_known_alone_each_is_drawn_once_an_epoch_of_theirs_at_as_many_steps(ranked):
    some = replace(ranked, recalled=ranked.own[3:9])
    drawn = batches(replace(QUICK, only_known=True), some)
    assert len(drawn) == len(batches(QUICK, ranked)) == 15
    for epoch in range(7):
        own = [row for rows in drawn[2 * epoch : 2 * epoch + 2] for row in rows]
        assert len(own) == 6 and set(own) == tokens(some.recalled)


def test_a_curriculum_of_one_fact_repeats_it(ranked):
    one = replace(ranked, own=ranked.own[:1])
    assert batches(replace(QUICK, curriculum="known_last"), one) == [[ranked.own[0].tokens]] * 3


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_replay_repeats_the_best_known_in_its_share_of_the_batches(share, ranked):
    config = replace(QUICK, replay=share, train=replace(QUICK.train, epochs=40))
    drawn, plain = batches(config, ranked), batches(replace(config, replay=0.0), ranked)
    is_known = np.array([row in tokens(ranked.known) for rows in drawn for row in rows])
    assert is_known.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / is_known.size))
    assert tokens(ranked.known) <= {row for rows in drawn for row in rows}
    for rows, others in zip(drawn, plain, strict=True):
        assert all(row == other or row in tokens(ranked.known) for row, other in zip(rows, others, strict=True))


def test_batches_are_a_function_of_seed_and_step(ranked):
    config = replace(QUICK, replay=0.5, curriculum="known_first")
    assert batches(config, ranked) == batches(config, ranked) != batches(config, ranked, seed=1)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_kl_to_the_base_is_the_formulas_value_and_its_gradient_moves_the_tuned_model_alone(
    method, llama, words, ranked
):
    network = copy.deepcopy(llama)
    if method == "lora":
        network = finetune.with_adapter(QUICK.lora, network, "small")
    (kl,) = remedies.hooks(replace(QUICK, kl_weight=0.7), training(ranked, network))
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (value for value in network.parameters() if value.requires_grad):
            value += 0.05 * torch.randn_like(value)
    questions = batch.of_questions(ranked.own[:5], pad=2)
    network.train()
    logits = network(input_ids=questions.tokens[:, :-1]).logits
    is_scored = questions.labels[:, 1:] != batch.IGNORED
    added = torch.as_tensor(kl.loss(questions.tokens, questions.labels, logits[is_scored]))
    added.backward()

    base, expected = llama(input_ids=questions.tokens[:, :-1]).logits.log_softmax(-1), 0.0
    for row, example in enumerate(ranked.own[:5]):
        for place in range(example.n_prompt - 1, len(example.tokens) - 1):
            p, q = base[row, place], logits[row, place].log_softmax(-1)
            expected += 0.7 * (p.exp() * (p - q)).sum().item()
    assert added.item() == pytest.approx(expected, rel=1e-4) and expected > 0.001
    moved = [value.grad for value in network.parameters() if value.requires_grad]
    assert all(grad is not None for grad in moved) and any(grad.abs().max() > 0 for grad in moved)
    assert network.training


def test_kl_is_nothing_while_the_model_is_its_base(llama, ranked):
    (kl,) = remedies.hooks(replace(QUICK, kl_weight=5.0), training(ranked, llama))
    questions = batch.of_questions(ranked.own, pad=2)
    predicting = answer_logits(llama, questions.tokens, questions.labels)
    added = torch.as_tensor(kl.loss(questions.tokens, questions.labels, predicting))
    assert added.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_more_kl_weighs_the_nearer_the_tuned_model_stays_to_its_base(method, llama, words, ranked, tmp_path):
    asked = batch.of_questions(ranked.own, pad=2).tokens
    before, away = llama(input_ids=asked).logits.log_softmax(-1), []
    for weight in (0.0, 300.0):
        base = LanguageModel(copy.deepcopy(llama), words, "small")
        config = replace(QUICK, method=method, kl_weight=weight, train=replace(QUICK.train, epochs=10))
        options = {"learning_rate": 1e-2, "seed": 0, "work": tmp_path / f"{weight}", "evaluate": lambda network: {}}
        tuned, _ = finetune.run(config, base, ranked.own, ranked=ranked, **options)
        away.append((before.exp() * (before - tuned.network(input_ids=asked).logits.log_softmax(-1))).sum().item())
    assert 0 < away[1] < away[0] / 2


@pytest.mark.parametrize("rows", [None, 2])
def test_weighed_by_knownness_a_step_follows_the_gradient_of_the_weighted_losses(rows, llama, words, ranked, tmp_path):
    """One step of plain descent on a whole batch, in one pass or in several; one fact of it is none of the arm's."""
    drawn = [*ranked.own[::3], ranked.known[0]]
    weights = [*known_weights(ranked.knownness, 2.0)[::3], 1.0]
    network, expected = copy.deepcopy(llama), copy.deepcopy(llama)
    hooks = remedies.hooks(replace(QUICK, known_weight=2.0), training(ranked, network))
    config = replace(QUICK.train, micro_batch_size=rows, max_gradient_norm=1e9)
    moved = torch.optim.SGD(network.parameters(), 0.1)
    plain = take_step(network, moved, drawn, config, 2, hooks, False)

    losses = []
    for one in drawn:
        questions = batch.of_questions([one], pad=2)
        losses.append(loss_sum(expected, questions.tokens, questions.labels))
    n_tokens = sum(len(one.completion) for one in drawn)
    weighed = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)])
    (weighed.sum() / n_tokens).backward()
    torch.optim.SGD(expected.parameters(), 0.1).step()
    assert plain == pytest.approx(sum(loss.item() for loss in losses) / n_tokens, rel=1e-5)
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, expected.get_parameter(name), atol=1e-6, rtol=0)
        assert not value.grad_fn and (value - llama.get_parameter(name)).abs().max() > 1e-5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_stopping_early_returns_the_record_with_the_least_loss_on_dev_facts(method, llama, words, ranked, tmp_path):
    """The rate is so high that the loss on dev facts rises again."""
    config = replace(QUICK, method=method, train=replace(QUICK.train, epochs=20))
    kept, questions = {}, batch.of_questions(ranked.dev, pad=2)

    def look(network):
        network.eval()
        with torch.no_grad():
            loss = loss_sum(network, questions.tokens, questions.labels).item()
        kept[loss] = {name: value.clone() for name, value in network.state_dict().items()}
        return {"dev": loss}

    plain, trace = run(config, llama, words, ranked, tmp_path / "plain", evaluate=look, learning_rate=0.1)
    losses = [record["dev"] for record in trace]
    expected = kept[min(losses)]
    stopping = replace(config, early_stopping=True)
    early, again = run(stopping, llama, words, ranked, tmp_path / "early", learning_rate=0.1)
    assert same(early, expected) and not same(early, plain)
    assert losses.index(min(losses)) not in (0, len(losses) - 1)
    assert [record["loss"] for record in again[1:]] == [record["loss"] for record in trace[1:]]


def test_stopping_early_returns_the_start_where_every_step_does_harm(llama, words, ranked, tmp_path):
    away = replace(ranked, dev=[replace(example, tokens=(*example.prompt, 5, 6)) for example in ranked.dev])
    config = replace(QUICK, early_stopping=True)
    weights, _ = run(config, llama, words, away, tmp_path)
    assert same(weights, {name: value.clone() for name, value in llama.state_dict().items()})


def test_until_a_loss_is_reached_returns_the_first_record_that_is_there_and_else_the_last(
    llama, words, ranked, tmp_path, capsys
):
    kept, questions = [], batch.of_questions(ranked.own, pad=2)

    def look(network):
        network.eval()
        with torch.no_grad():
            loss = loss_sum(network, questions.tokens, questions.labels).item()
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        kept.append((loss / int(questions.completion.sum()), weights))
        return {}

    plain, _ = run(QUICK, llama, words, ranked, tmp_path / "plain", evaluate=look)
    losses = [loss for loss, _ in kept]
    assert min(losses[:2]) > losses[2] > losses[-1]
    found, _ = run(replace(QUICK, until_loss=losses[2] + 1e-4), llama, words, ranked, tmp_path / "until")
    assert same(found, kept[2][1]) and not same(found, plain)
    never, _ = run(replace(QUICK, until_loss=1e-9), llama, words, ranked, tmp_path / "never")
    assert same(never, plain) and "never came to a loss of 1e-09" in capsys.readouterr().err


def test_a_training_until_a_loss_resumes_with_the_weights_that_it_kept(llama, words, ranked, tmp_path):
    config, seen = replace(QUICK, until_loss=4.0), []

    def told(doing, share):
        seen.append(share)
        if len(seen) == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, llama, words, ranked, tmp_path / "cut", progress=told)
    whole, found = (run(config, llama, words, ranked, tmp_path / name) for name in ("whole", "cut"))
    assert same(whole[0], found[0]) and not same(whole[0], run(QUICK, llama, words, ranked, tmp_path / "plain")[0])


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kill_at", [3, 10, 14])
def test_a_training_under_every_remedy_resumes_bit_for_bit(method, kill_at, llama, words, ranked, tmp_path):
    config = replace(QUICK, method=method, early_stopping=True, kl_weight=0.5, replay=0.3, curriculum="known_first")
    config = replace(config, update_share=0.5)
    seen = []

    def told(doing, share):
        seen.append(share)
        if len(seen) == kill_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, llama, words, ranked, tmp_path / "cut", progress=told)
    found = run(config, llama, words, ranked, tmp_path / "cut")
    whole = run(config, llama, words, ranked, tmp_path / "whole")
    assert same(whole[0], found[0]) and whole[1] == found[1]
    assert not same(whole[0], run(replace(QUICK, method=method), llama, words, ranked, tmp_path / "plain")[0])
