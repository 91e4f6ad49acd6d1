"""What might close the gap: each option of finetuning does what it says, in both parametrisations of the model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from core import split
from core.errors import InputError
from core.remedies import known_weights
from core.seeds import Cell
from core.split import SplitConfig
from theory import config as configs
from theory import design, evaluate, finetune, pipeline, remedies
from theory.config import Config
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.model import factored, traced
from theory.model.config import ModelConfig
from theory.model.traced import Constants
from theory.pretrain import PretrainConfig

RUN = Config(
    facts=FactsConfig(n_subjects=16, n_relations=3, n_answers=5),
    model=ModelConfig(n_filler=6, shared_share=0.4),
    pretrain=PretrainConfig(steps=200, batch_size=32),
    split=SplitConfig(held_out=0.4, dev=0.2),
    finetune=FinetuneConfig(steps=60, batch_size=32, value_learning_rate=0.5),
    precision="float64",
    n_records=4,
)


def simulate(changes: dict, base: Config = RUN) -> pipeline.Simulation:
    return pipeline.simulate(design.replace(base, changes), [Cell(3, 3, 3)])[0]


@pytest.fixture(scope="module")
def plain():
    """Return the run without any remedy, by what is trained."""
    return {train: simulate({"finetune.train": train}) for train in ("attention", "everything")}


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ("everything", {"kl_weight": 0.7, "attention_floor": 5.0, "replay": 0.3, "curriculum": "known_first"}),
        ("values", {"kl_weight": 0.7, "curriculum": "known_last"}),
        ("attention", {"attention_floor": 20.0, "early_stopping": True, "known_weight": 1.0}),
    ],
)
def test_both_forms_are_one_model_under_every_remedy(train, changes, plain):
    changed = {f"finetune.{name}": value for name, value in ({"train": train} | changes).items()}
    one, other = (simulate(changed | {"model.parametrisation": form}) for form in ("factored", "dense"))
    for arm in ("base", *split.ARMS):
        for name, here, there in zip(one.weights[arm]._fields, one.weights[arm], other.weights[arm], strict=True):
            np.testing.assert_allclose(here, there, rtol=0, atol=1e-9, err_msg=f"{arm} {name}")
        np.testing.assert_allclose(one.traces[arm].loss, other.traces[arm].loss, atol=1e-9)
    without = plain["attention" if train == "attention" else "everything"]
    assert np.abs(one.weights["bottom"].subject_logit - without.weights["bottom"].subject_logit).max() > 0.01


def test_values_alone_leave_attention_uniform_and_move_the_values():
    one = simulate({"finetune.train": "values"})
    for arm in split.ARMS:
        assert not one.weights[arm].subject_logit.any() and not one.weights[arm].relation_logit.any()
        assert one.weights[arm].template_logit == 0
        assert np.abs(one.weights[arm].subject_values - one.weights["base"].subject_values).max() > 0.1
        assert np.abs(one.weights[arm].template_value - one.weights["base"].template_value).max() > 0.1


KL, FLOOR, RATE, VALUE_RATE = 0.6, 3.0, 0.8, 0.5


def step_by_autodiff(values, logits, batch, base, constants, prompt):
    """Return values and logits after a step along the gradient of the loss as it is written."""

    def loss(trained):
        attention, _, output = factored.forward(trained[0], trained[1], batch, constants)
        log_p = jax.nn.log_softmax(output)
        error = -jnp.take_along_axis(log_p, batch.answer[:, None], axis=1)[:, 0]
        divergence = (base * (jnp.log(base) - log_p)).sum(axis=1)
        share = attention[0] / (attention[0] + attention[1])
        return (error + KL * divergence + FLOOR * 0.5 * jnp.maximum(0, 0.5 - share) ** 2).mean()

    value_gradient, gradient = jax.grad(loss)((values, logits))
    rho = constants.shared_share
    rates = traced.rates(rho, prompt)
    pairs = zip(logits, gradient, rates, strict=True)
    moved = [part - RATE * jnp.asarray(rate) * slope for part, slope, rate in pairs]
    own = factored.Values(1 - rho, 1 - rho, 1.0, rho * constants.value_share)  # type: ignore
    pairs = zip(values, value_gradient, own, strict=True)
    return [part - VALUE_RATE * rate * slope for part, slope, rate in pairs], moved


@pytest.fixture
def step():
    """Return random values, logits, a batch and the base's probabilities, in which the floor holds for some facts."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
        values = factored.Values(draw(7, 11), draw(3, 11), draw(11), draw(2, 11))
        logits = factored.initial_logits(values, "template")._replace(subject=draw(7), relation=draw(3))
        batch = factored.Facts(*(jnp.asarray(rng.integers(n, size=20)) for n in (7, 3, 8)))
        constants = Constants(jnp.asarray(0.4), jnp.asarray(0.3), jnp.asarray(1.0))
        base = jax.nn.softmax(draw(20, 11))
        attention = factored.forward(values, logits, batch, constants)[0]
        n_below = int((attention[0] < attention[1]).sum())
        assert 3 < n_below < 17
        yield values, logits, batch, base, constants


def test_kl_and_floor_move_values_and_logits_along_the_gradient_of_the_loss_as_written(step):
    values, logits, batch, base, constants = step
    added = [remedies.kl(jnp.asarray(KL), base), remedies.floor(jnp.asarray(FLOOR))]
    rates = jnp.asarray(RATE), jnp.asarray(VALUE_RATE)
    found = factored.question_step(values, logits, batch, *rates, constants, "template", added)
    expected = step_by_autodiff(values, logits, batch, base, constants, "template")
    for after, wanted, before in zip(found[:2], expected, (values, logits), strict=True):
        for name, one, other, start in zip(after._fields, after, wanted, before, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12, err_msg=name)
            assert not one.size or name.endswith("by_relation") or np.abs(one - start).max() > 1e-4, name


def test_a_remedy_of_no_strength_changes_no_bit(step):
    values, logits, batch, base, constants = step
    rates = jnp.asarray(RATE), jnp.asarray(VALUE_RATE)
    none = [remedies.kl(jnp.asarray(0.0), base), remedies.floor(jnp.asarray(0.0))]
    found, expected = (
        factored.question_step(values, logits, batch, *rates, constants, "template", *added) for added in ([none], [])
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_kl_keeps_attention_on_the_template_whose_filler_the_base_answers_with():
    slow = {"finetune.learning_rate": 0.05}
    held, free = simulate(slow | {"finetune.kl_weight": 2.0}), simulate(slow)
    for arm in split.ARMS:
        assert 0 > held.weights[arm].template_logit > 0.5 * free.weights[arm].template_logit


def test_the_floor_holds_the_subjects_share_where_it_would_fall_below_the_bases():
    barely = {"pretrain.steps": 10, "finetune.steps": 300}  # what is hardly stored loses attention
    lifted, free = simulate(barely | {"finetune.attention_floor": 20.0}), simulate(barely)
    for arm in split.ARMS:
        below = []
        for one in (lifted, free):
            answers = evaluate.answer(one.weights[arm], one.store, one.split.arms[arm])
            share = answers.attention[:, 0] / answers.attention[:, :2].sum(axis=1)
            below.append(np.maximum(0, 0.5 - share).mean())
        assert below[1] > 0.015 and below[0] < 0.5 * below[1], (arm, below)


@pytest.fixture(scope="module")
def task_of():
    """Return a function that gives a world's task, and its unit with base and split, under a finetuning."""
    config = replace(RUN, facts=FactsConfig(n_subjects=100), pretrain=PretrainConfig(steps=5), precision="float32")

    def make(**changes) -> tuple[FinetuneConfig, finetune.Task, pipeline.Prepared]:
        tuned = replace(config, finetune=replace(config.finetune, **changes))
        (one,) = pipeline.pretrained_to_ends([pipeline.Unit(tuned, Cell(0, 0, 0))], pipeline.Clock())
        return tuned.finetune, pipeline.task(one, n_probe=10), one

    return make


def draw(config: FinetuneConfig, task: finetune.Task, arm: int, n_steps: int, n_first: int, seed: int) -> np.ndarray:
    key = jax.random.key(seed)
    sizes = jnp.asarray(task.sizes[arm]), jnp.asarray(n_steps)
    task = jax.tree.map(jnp.asarray, task)
    return np.asarray(finetune._draw(config, task, task.arms[arm], *sizes, key, jnp.asarray(n_first)))


@pytest.mark.parametrize("order", ["mixed", "known_first", "known_last"])
def test_the_order_decides_which_half_of_an_arms_facts_each_half_of_the_steps_draws(order, task_of):
    config, task, one = task_of(curriculum=order)
    for arm, name in enumerate(split.ARMS):
        rows = one.split.arms[name]
        known = one.knownness
        middle = np.median(known[rows])
        blocks = [draw(config, task, arm, 25, n_first, 10 * n_first + arm) for n_first in (0, 10, 20)]
        drawn = np.concatenate(blocks)[:25]
        assert set(drawn.ravel()) <= set(rows)
        first, second = drawn[:13], drawn[13:]
        if order == "mixed":
            assert known[first].min() < middle < known[first].max()
            continue
        known_half, other_half = (first, second) if order == "known_first" else (second, first)
        assert known[known_half].min() >= middle >= known[other_half].max()
        # Each half is drawn whole: 384 draws of 40 to 80 facts.
        for half in (known_half, other_half):
            assert len(np.unique(half)) > 0.9 * (len(rows) // 2)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_replay_repeats_the_best_known_tenth_in_its_share_of_every_batch(share, task_of):
    config, task, one = task_of(replay=share)
    whole, bottom = one.split.arms["whole"], one.split.arms["bottom"]
    n_known = len(whole) // 10
    drawn = np.concatenate([draw(config, task, split.ARMS.index("bottom"), 60, 0, seed) for seed in range(20)])
    repeated = drawn[~np.isin(drawn, bottom)]
    assert len(repeated) / drawn.size == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / drawn.size))
    assert len(np.unique(repeated)) == n_known
    assert one.knownness[repeated].min() >= np.sort(one.knownness[whole])[-n_known]
    per_step = (~np.isin(drawn, bottom)).mean(axis=1)
    assert per_step.std() < 0.1


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_facts_are_drawn_in_proportion_to_their_weights_by_knownness(power, task_of):
    config, task, one = task_of(known_weight=power)
    bottom = one.split.arms["bottom"]
    drawn = np.concatenate([draw(config, task, split.ARMS.index("bottom"), 60, 0, seed) for seed in range(80)])
    expected = known_weights(-np.argsort(np.argsort(-one.knownness[bottom], kind="stable")), power) / len(bottom)
    found = (drawn.ravel()[:, None] == bottom).mean(axis=0)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / drawn.size))
    assert expected.max() - expected.min() > 10 * np.sqrt(expected.max() / drawn.size)


@pytest.mark.parametrize("changes", [{}, {"curriculum": "known_first"}, {"replay": 0.5}])
def test_forty_million_facts_are_drawn_alike(changes, task_of):
    """A draw that overflows takes the lowest ones, a third of them, half a per cent too often."""
    config, task, _ = task_of(**changes)
    n_facts, n_draws = 40_000_000, 2_000_000
    rows = jnp.arange(n_facts if "curriculum" not in changes else 2 * n_facts, dtype=jnp.int32)
    if "replay" in changes:
        task = task._replace(known=rows, n_rows=jnp.array([0, 0, n_facts]))
    config = replace(config, batch_size=n_draws // finetune.BLOCK)
    numbers = jnp.asarray(len(rows)), jnp.asarray(config.steps), jax.random.key(0), jnp.asarray(0)
    drawn = np.asarray(finetune._draw(config, task, rows, *numbers))
    n_low = int((drawn < 2**32 % n_facts).sum())
    assert stats.binomtest(n_low, n_draws, (2**32 % n_facts) / n_facts).pvalue > 1e-3


def test_stopping_early_returns_the_record_with_the_least_loss_on_dev_facts():
    changes = {"finetune.train": "everything", "finetune.value_learning_rate": 8.0}
    early = simulate(changes | {"finetune.early_stopping": True, "n_records": 6})
    config = design.replace(RUN, changes)
    dev = np.flatnonzero(early.split.role == split.DEV)
    one_record = changes | {"n_records": 1}
    shorter = {0: None} | {n: simulate(one_record | {"finetune.steps": n}) for n in range(10, 61, 10)}
    chosen = {}
    for arm in split.ARMS:
        weights = {n: (one or early).weights[arm if one else "base"] for n, one in shorter.items()}
        losses = {n: -evaluate.answer(w, early.store, dev).answer_logprob.mean() for n, w in weights.items()}
        chosen[arm] = min(losses, key=losses.__getitem__)
        for name, one, other in zip(weights[0]._fields, early.weights[arm], weights[chosen[arm]], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-12, err_msg=f"{arm} {name}")
    assert any(0 < n < 60 for n in chosen.values()), chosen
    with pytest.raises(InputError, match="early-stopping needs dev facts.\nAdd --split.dev"):
        configs.check(replace(config, split=SplitConfig(), finetune=replace(config.finetune, early_stopping=True)))
