"""The factored model's closed-form steps against PyTorch's and JAX's derivatives of the same loss, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.facts.store import FactStore
from theory import evaluate
from theory.model import factored, traced
from theory.model.config import ModelConfig, Prompt

N_SUBJECTS, N_RELATIONS, N_ANSWERS, N_FILLER, RHO = 9, 3, 6, 4, 0.3
RATE, VALUE_RATE = 0.7, 0.4
FORMS = pytest.mark.parametrize(
    ("prompt", "value_share"), [("template", 0.0), ("template", 0.3), ("bare", 0.0), ("bare", 0.3)]
)
FACTS = factored.Facts(np.array([0, 0, 3, 5, 3, 8]), np.array([1, 2, 1, 0, 1, 2]), np.array([0, 1, 2, 3, 2, 5]))
"""Subject 3 and its fact are there twice, subject 0 with two relations; subjects 1, 2, 4, 6 and 7 are not."""


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def config(value_share: float = 0.0) -> ModelConfig:
    return ModelConfig(shared_share=RHO, value_share=value_share, n_filler=N_FILLER)


def constants(value_share: float = 0.0) -> traced.Constants:
    return traced.uncounted(config(value_share))


def state(prompt: Prompt, value_share: float = 0.0, seed: int = 0) -> tuple[factored.Values, factored.Logits]:
    """Return random values and logits."""
    rng = np.random.default_rng(seed)
    values = factored.initial_values(config(), N_SUBJECTS, N_RELATIONS, N_ANSWERS, jnp.dtype(jnp.float64))
    logits = factored.initial_logits(values, prompt)
    values, logits = jax.tree.map(lambda array: array + rng.normal(size=array.shape), (values, logits))
    return (values if value_share else values._replace(shared=jnp.zeros_like(values.shared))), logits


def batch() -> factored.Facts:
    return factored.Facts(*map(jnp.asarray, FACTS))


def moved(old, gradient, rates, rate):
    """Return the parts after one SGD step, each at its own multiple of the rate."""
    parts = zip(old, gradient, rates, strict=True)
    return [np.asarray(part) - rate * share * np.asarray(slope) for part, slope, share in parts]


def value_rates(value_share: float) -> list[float]:
    return [1 - RHO, 1 - RHO, 1.0, RHO * value_share]


def logit_rates(prompt: str) -> list:
    """Squared lengths of the parts of φ(x)φ(query)ᵀ; the query is the relation where there is no template."""
    if prompt == "template":
        return [RHO, 1 - RHO, 1 - RHO, 1.0, 0.0, 0.0]
    return [RHO**2, (1 - RHO) * RHO, 1 - RHO**2, 0.0, RHO * (1 - RHO), (1 - RHO) ** 2]


def torch_losses(torch, values, logits, prompt, value_share):
    """The forward pass again, as a user of PyTorch would write it."""
    subject, relation, answer = map(torch.as_tensor, FACTS)
    by_subject, by_relation, of_template, shared = values
    tokens = [by_subject[subject], by_relation[relation], of_template.expand(len(subject), -1)]
    if value_share:
        tokens = [tokens[0] + shared[0], tokens[1] + shared[1], tokens[2]]
    if logits is None:
        output = (tokens[0] + tokens[1]) / 2
    else:
        scores = [logits[0][0] + logits[1][subject], logits[0][1] + logits[2][relation]]
        if prompt == "template":
            scores.append(logits[3].expand(len(subject)))
        else:
            scores[0] = scores[0] + logits[4][relation] + logits[5][subject, relation]
        attention = torch.softmax(torch.stack(scores), dim=0)
        output = torch.einsum("tf,tfo->fo", attention, torch.stack(tokens[: len(scores)]))
    return torch.nn.functional.cross_entropy(output, answer, reduction="none")


def by_torch(values, logits, prompt, value_share):
    torch = pytest.importorskip("torch")
    leaves = [
        None if part is None else [torch.tensor(np.asarray(array), requires_grad=True) for array in part]
        for part in (values, logits)
    ]
    losses = torch_losses(torch, leaves[0], leaves[1], prompt, value_share)
    losses.mean().backward()
    slopes = [
        [np.zeros(array.shape) if array.grad is None else array.grad.numpy() for array in part or ()] for part in leaves
    ]
    return losses.detach().numpy(), *slopes


def by_jax(values, logits, prompt, value_share):
    def mean_loss(values, logits):
        if logits is None:
            output = factored.fact_logits(values, batch(), constants(value_share))
        else:
            _, _, output = factored.forward(values, logits, batch(), constants(value_share))
        losses = -jax.nn.log_softmax(output)[jnp.arange(len(FACTS.answer)), FACTS.answer]
        return losses.mean(), losses

    slopes, losses = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(values, logits)
    return losses, slopes[0], slopes[1] or ()


@FORMS
@pytest.mark.parametrize("derive", [by_torch, by_jax])
def test_a_step_on_questions_is_sgd_on_the_autodiff_gradient(derive, prompt, value_share):
    values, logits = state(prompt, value_share)
    losses, of_values, of_logits = derive(values, logits, prompt, value_share)
    rates = jnp.asarray(RATE), jnp.asarray(VALUE_RATE)
    found = factored.question_step(values, logits, batch(), *rates, constants(value_share), prompt)
    np.testing.assert_allclose(found[2], losses, rtol=1e-12)
    for one, other in zip(found[0], moved(values, of_values, value_rates(value_share), VALUE_RATE), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    for one, other, old in zip(found[1], moved(logits, of_logits, logit_rates(prompt), RATE), logits, strict=True):
        if np.isfinite(old).all():  # a prompt without template gives it no attention, now and ever
            np.testing.assert_allclose(one, other, atol=1e-12)
        else:
            np.testing.assert_array_equal(one, old)


@pytest.mark.parametrize("value_share", [0.0, 0.3])
@pytest.mark.parametrize("derive", [by_torch, by_jax])
def test_a_step_on_pretraining_prompts_is_sgd_on_the_autodiff_gradient(derive, value_share):
    values, _ = state("bare", value_share)
    losses, of_values, _ = derive(values, None, "bare", value_share)
    found, found_losses = factored.fact_step(values, batch(), jnp.asarray(RATE), constants(value_share))
    np.testing.assert_allclose(found_losses, losses, rtol=1e-12)
    for one, other in zip(found, moved(values, of_values, value_rates(value_share), RATE), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("value_share", [0.0, 0.3])
def test_steps_on_values_less_a_fillers_are_steps_on_all_values(value_share):
    count = np.append(np.ones(N_ANSWERS), float(N_FILLER))
    whole = factored.initial_values(ModelConfig(n_filler=1), N_SUBJECTS, N_RELATIONS, N_ANSWERS, jnp.dtype(jnp.float64))
    less = jax.tree.map(lambda rows: rows[..., :-1], whole)
    counted = constants(value_share)._replace(multiplicity=count)
    for rate in jnp.array([RATE, 20.0, 5.0]):
        whole, losses = factored.fact_step(whole, batch(), rate, counted)
        less, found = factored.fact_step(
            less, batch(), rate, constants(value_share), n_filler=jnp.asarray(float(N_FILLER))
        )
        np.testing.assert_allclose(found, losses, rtol=1e-12)
    for name in ("subject", "relation", "shared"):
        rows = factored.with_filler(getattr(less, name), jnp.asarray(float(N_FILLER)))
        np.testing.assert_allclose(rows, getattr(whole, name), atol=1e-12, err_msg=name)
        np.testing.assert_allclose(rows @ count, 0, atol=1e-12)


@pytest.mark.parametrize("prompt", ["template", "bare"])
def test_a_step_moves_no_row_of_a_subject_outside_the_batch(prompt):
    values, logits = state(prompt)
    rates = jnp.asarray(RATE), jnp.asarray(VALUE_RATE)
    stored, _ = factored.fact_step(values, batch(), rates[0], constants())
    answered, moved_logits, _ = factored.question_step(values, logits, batch(), *rates, constants(), prompt)
    is_moved = np.isin(np.arange(N_SUBJECTS), FACTS.subject)
    for old, new in (
        (values.subject, stored.subject),
        (values.subject, answered.subject),
        (logits.subject, moved_logits.subject),
    ):
        np.testing.assert_array_equal(old[~is_moved], new[~is_moved])
        assert (old[is_moved] != new[is_moved]).any(axis=tuple(range(1, old.ndim))).all()
    if prompt == "bare":
        pairs = np.zeros((N_SUBJECTS, N_RELATIONS), bool)
        pairs[FACTS.subject, FACTS.relation] = True
        np.testing.assert_array_equal(logits.subject_by_relation != moved_logits.subject_by_relation, pairs)


def test_an_accelerators_products_move_the_rows_as_a_cpus_additions_do(monkeypatch):
    values, logits = state("template")
    rates = jnp.asarray(RATE), jnp.asarray(VALUE_RATE)
    added = factored.question_step(values, logits, batch(), *rates, constants(), "template")
    monkeypatch.setattr(factored, "on_cpu", lambda: False)
    multiplied = factored.question_step(values, logits, batch(), *rates, constants(), "template")
    for one, other in zip(jax.tree.leaves(multiplied), jax.tree.leaves(added), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_values_without_a_rate_stay_as_they_are():
    values, logits = state("template")
    same, moved_logits, _ = factored.question_step(
        values, logits, batch(), jnp.asarray(RATE), None, constants(), "template"
    )
    assert same is values
    assert (moved_logits.shared != logits.shared).all()


def test_before_pretraining_nothing_is_stored_and_the_template_is_followed_by_filler():
    values = factored.initial_values(config(), N_SUBJECTS, N_RELATIONS, N_ANSWERS, jnp.dtype(jnp.float32))
    assert values.subject.shape == (N_SUBJECTS, N_ANSWERS + N_FILLER) and values.subject.dtype == jnp.float32
    assert not values.subject.any() and not values.relation.any() and not values.shared.any()
    np.testing.assert_array_equal(values.template, [0.0] * N_ANSWERS + [ModelConfig.template_strength] * N_FILLER)


@pytest.mark.parametrize(("prompt", "expected"), [("template", [1 / 3] * 3), ("bare", [0.5, 0.5, 0.0])])
def test_attention_starts_uniform_over_the_tokens_that_the_prompt_has(prompt, expected):
    values, _ = state(prompt)
    attention, _, _ = factored.forward(values, factored.initial_logits(values, prompt), batch(), constants())
    np.testing.assert_allclose(attention, np.tile(expected, (len(FACTS.answer), 1)).T)


def test_error_is_the_negative_gradient_of_the_loss_and_sums_to_zero():
    output = jnp.asarray(10 * np.random.default_rng(1).normal(size=(5, 7)))
    answer = jnp.array([0, 6, 3, 3, 1])
    loss, push = factored.loss_and_residual(output, answer)
    expected = -jax.nn.log_softmax(output)[jnp.arange(5), answer]
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(push, jax.nn.one_hot(answer, 7) - jax.nn.softmax(output), atol=1e-14)
    np.testing.assert_allclose(push.sum(axis=1), 0, atol=1e-13)


@pytest.mark.parametrize("gap", [81.0, 1e4, 1e30, np.inf, np.nan])
def test_a_diverged_loss_is_seen_and_none_below_the_limit_is(gap):
    output = jnp.asarray([[0.0, gap, 1.0]], jnp.float32)
    with np.errstate(all="ignore"):
        loss, _ = factored.loss_and_residual(output, jnp.array([0]))
    assert not float(loss[0]) < factored.MAX_LOSS
    fine, _ = factored.loss_and_residual(jnp.asarray([[0.0, 79.0, 1.0]], jnp.float32), jnp.array([0]))
    assert float(fine[0]) == pytest.approx(79.0)


@FORMS
def test_the_measurements_see_what_the_forward_pass_does(prompt, value_share):
    values, logits = state(prompt, value_share)
    attention, _, output = factored.forward(values, logits, batch(), constants(value_share))
    subject, relation, answer = (np.asarray(column, np.int32) for column in FACTS)
    ones = np.ones(len(FACTS.answer))
    store = FactStore(subject, relation, answer, ones, ones / len(ones), ones == 0, N_SUBJECTS, N_RELATIONS, N_ANSWERS)
    found = evaluate.answer(factored.weights(values, logits), store, np.arange(len(ones)))
    np.testing.assert_allclose(found.attention, attention.T, atol=1e-14)
    np.testing.assert_array_equal(found.predicted, output.argmax(axis=1))
    np.testing.assert_allclose(
        found.answer_logprob, jax.nn.log_softmax(output)[np.arange(len(ones)), FACTS.answer], rtol=1e-12
    )
