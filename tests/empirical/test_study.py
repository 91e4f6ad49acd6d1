"""One cell of a study, stage by stage, on a model that was pretrained in a second."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners import lora

from core import split
from core.errors import InputError
from core.facts.record import Fact, FactSet
from core.split import ARMS, DEV, HELD_OUT, TRAIN, SplitConfig
from empirical import arm as of_arm
from empirical import finetune, knownness, room, study
from empirical.config import Config
from empirical.evaluate import EvaluateConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import completion
from empirical.lm import model as models
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig
from empirical.pretrain import PretrainConfig
from empirical.study import Base
from empirical.worlds.world import Exposure, WorldConfig

CONFIG = Config(
    world=WorldConfig(
        n_subjects=40, n_relations=2, facts_per_subject=2, n_answers=5, exposure=Exposure(low=0.5, high=4.0)
    ),
    pretrain=PretrainConfig(d_model=16, layers=1, heads=2, key_value_heads=1, vocabulary=400, n_probes=1),
    knownness=KnownnessConfig(measure="logprob", shots=1, n_prompts=1),
    split=SplitConfig(held_out=0.4, dev=0.2),
    finetune=FinetuneConfig(learning_rates=(1e-3, 1e-2), train=TrainConfig(epochs=1, batch_size=8, n_records=1)),
    evaluate=EvaluateConfig(max_new_tokens=2),
)
CHOICES = tuple(
    Fact(str(i), "", "law", f"Which {i}?", ("ABCD"[i % 4],), None, ("1", "2", "3", "4"), "mmlu") for i in range(20)
)


def quiet(doing, share):
    pass


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Base:
    """Return the base model of a world that it was told."""
    return study.base(CONFIG, None, tmp_path_factory.mktemp("base"), seed=0, progress=quiet)


@pytest.fixture(scope="module")
def asked(one, tmp_path_factory):
    """Return its questions and their split."""
    return study.questions(CONFIG, one, tmp_path_factory.mktemp("asked"), seed=0)[:2]


@pytest.fixture
def named(one) -> Config:
    """Return the config of a study that names this model as if it were another's."""
    return replace(CONFIG, model=ModelConfig(one.model.name))


def _fact(i, subject, relation="r", question=None, answer="Bo"):
    return Fact(str(i), subject, relation, question or f"Who is {subject}?", (answer,), float(i))


def test_facts_are_of_one_subject_and_question_whatever_the_case_and_without_a_subject_of_their_own():
    facts = [
        *(_fact(0, "Ann"), _fact(1, "ANN", "s", "WHERE is Ann?"), _fact(2, "Bo", "s", "Where is ANN?")),
        *(_fact(3, "", question="When?"), _fact(4, "", question="Why?"), _fact(5, "", question="when?")),
    ]
    ids = study.identify(facts)
    same = {(a, b) for a in range(6) for b in range(a) if ids.subject[a] == ids.subject[b]}
    assert same == {(1, 0), (5, 3)}
    assert {(a, b) for a in range(6) for b in range(a) if ids.question[a] == ids.question[b]} == {(2, 1), (5, 3)}
    assert ids.relation.tolist() == [0, 1, 1, 0, 0, 0]


def test_deleting_rows_moves_no_other_question_where_roles_are_hashed():
    config = replace(CONFIG, split=SplitConfig(held_out=0.4, dev=0.1, draw="hashed"))
    facts = [_fact(i, f"Ann{i // 2}" if i % 3 else "", question=f"What is {i} of Ann{i // 2}?") for i in range(200)]
    role = study.roles(config, study.identify(facts), seed=1).role
    kept = [row for row in range(200) if row % 5]
    assert (study.roles(config, study.identify([facts[row] for row in kept]), seed=1).role == role[kept]).all()


def test_the_same_question_with_other_choices_is_another():
    other = replace(CHOICES[0], choices=("5", "6", "7", "8"))
    question = study.identify([CHOICES[0], other, CHOICES[0]]).question
    assert question[0] == question[2] != question[1]


def test_our_own_model_was_told_the_facts_that_it_is_asked(one):
    assert len(one.facts) == 80 and {fact.source for fact in one.facts} == {"world"}
    assert one.model.name.startswith(str(one.load().name))


def test_a_named_model_is_asked_what_is_given(named, one, tmp_path):
    given = FactSet((_fact(0, "Ann"),), ("a note",))
    found = study.base(named, given, tmp_path, seed=0, progress=quiet)
    assert (found.facts, found.notes) == (given.facts, given.notes)
    assert found.model == replace(named.model, precision=models.resolved("auto", trains_all=True))
    assert not list(tmp_path.iterdir())


def test_multiple_choice_is_asked_of_a_model_of_a_synthetic_world(one, tmp_path, monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(study.pretrain, "run", lambda config, world, given, out, **more: told.append(given) or out)
    found = study.base(CONFIG, FactSet(CHOICES), tmp_path, seed=0, progress=quiet)
    assert told == [None] and found.facts == CHOICES


def test_facts_that_the_measure_cannot_rank_are_refused_before_anything_is_pretrained(one, tmp_path, monkeypatch):
    monkeypatch.setattr(study.pretrain, "run", lambda *given, **more: pytest.fail("a model was pretrained"))
    for knowing, told in (
        (KnownnessConfig(measure="popularity"), "have no popularity"),
        (KnownnessConfig(measure="greedy"), "multiple choice"),
    ):
        config = replace(CONFIG, knownness=knowing)
        with pytest.raises(InputError, match=f"{told}(.|\n)*--knownness.measure logprob"):
            study.base(config, FactSet(CHOICES), tmp_path, seed=0, progress=quiet)


def test_facts_that_the_measure_cannot_rank_are_refused_before_a_model_is_loaded(named, one, tmp_path, monkeypatch):
    monkeypatch.setattr(Base, "load", lambda self: pytest.fail("a model was loaded"))
    unranked = Base(one.model, tuple(replace(fact, popularity=None) for fact in one.facts), ())
    with pytest.raises(InputError, match="have no popularity"):
        study.questions(replace(named, knownness=KnownnessConfig()), unranked, tmp_path, seed=0)


def test_roles_and_arms_part_subjects_and_questions(asked):
    questions, halves = asked
    assert [int((halves.role == role).sum()) for role in (TRAIN, DEV, HELD_OUT)] == [32, 16, 32]
    for role in (DEV, HELD_OUT):
        away = np.flatnonzero(halves.role == role)
        for arm in ARMS:
            rows = halves.arms[arm]
            assert not set(questions.subject[away]) & set(questions.subject[rows])
            assert not {questions.facts[row].question for row in away} & {questions.facts[row].question for row in rows}


def test_what_is_held_out_does_not_depend_on_how_facts_are_ranked(one, asked, tmp_path):
    other, halves, notes = study.questions(
        replace(CONFIG, knownness=KnownnessConfig(measure="popularity")), one, tmp_path, seed=0
    )
    np.testing.assert_array_equal(other.held_out, asked[0].held_out)
    np.testing.assert_array_equal(study.held_out(CONFIG, one, seed=0), other.held_out)
    assert notes["rank_correlation"] == pytest.approx(1)
    assert set(halves.arms["top"].tolist()) != set(asked[1].arms["top"].tolist())
    assert not list(tmp_path.iterdir())  # the source's own popularity is nothing to keep


def test_a_leak_is_an_error_that_says_what_leaks(one, tmp_path, monkeypatch):
    roles = np.array([TRAIN, HELD_OUT] * 40, dtype=np.int8)
    monkeypatch.setattr(split, "_draw_roles", lambda component, config, rng: roles)
    monkeypatch.setattr(study.knownness, "score", lambda *given, **more: pytest.fail("scored"))
    with pytest.raises(InputError, match="subjects are in more than one set; subject .* train and held_out"):
        study.questions(CONFIG, one, tmp_path, seed=0)


def test_the_models_scores_are_made_once_for_a_split_and_its_examples_are_trained_on(one, tmp_path, monkeypatch):
    score, pools = knownness.score, []

    def counted(config, model, facts, pool, *, seed, **more):
        pools.append({fact.id for fact in pool})
        return score(config, model, facts, pool, seed=seed)

    monkeypatch.setattr(study.knownness, "score", counted)
    (first, halves, _), (again, _, _) = (study.questions(CONFIG, one, tmp_path, seed=0) for _ in range(2))
    assert pools == [{one.facts[row].id for row in np.flatnonzero(halves.role == TRAIN)}]
    np.testing.assert_array_equal(first.knownness, again.knownness)
    study.questions(CONFIG, one, tmp_path, seed=1)
    other = replace(CONFIG, knownness=replace(CONFIG.knownness, shots=2))
    study.questions(other, one, tmp_path, seed=0)
    assert len(pools) == 3


def test_our_own_model_recalls_by_its_sentences_and_anothers_by_answers_after_examples(
    one, named, tmp_path, monkeypatch
):
    shares = np.linspace(0, 1, 32)
    monkeypatch.setattr(completion, "recall", lambda net, words, facts, *, n_paraphrases: shares[: len(facts)])
    questions, _, _ = study.questions(CONFIG, one, tmp_path, seed=0)
    np.testing.assert_array_equal(questions.base_correct, shares >= 0.5)
    measured = []

    def score(config, model, facts, pool, *, seed, **more):
        measured.append(config.measure)
        return knownness.Scores(np.linspace(1, 0, len(facts)), None)

    monkeypatch.setattr(study.knownness, "score", score)
    questions, _, _ = study.questions(named, one, tmp_path / "other", seed=0)
    assert measured == ["logprob", "greedy"]
    np.testing.assert_array_equal(questions.base_correct, np.linspace(1, 0, 32) >= 0.5)
    questions, _, _ = study.questions(CONFIG, replace(one, facts=CHOICES), tmp_path / "letters", seed=0)
    assert measured[2:] == ["logprob"] * 2
    np.testing.assert_array_equal(questions.base_correct, np.linspace(1, 0, 8) > 0)


def test_tested_answers_that_training_names_too_are_counted(named, one, tmp_path):
    facts = tuple(_fact(i, f"Ann{i}", answer="Bo" if i < 20 else f"Cy{i}") for i in range(40))
    questions, halves, notes = study.questions(named, replace(one, facts=facts), tmp_path, seed=0)
    assert questions.generic == {"r": "Bo"}
    expected = np.mean([row < 20 for row in questions.held_out])
    assert notes["held_out_answers_seen_in_training"] == pytest.approx(expected)


def test_halves_that_chance_alone_would_part_are_refused_and_ties_told(named, one, tmp_path):
    by_popularity = replace(named, knownness=KnownnessConfig(measure="popularity"))
    facts = tuple(replace(_fact(i, f"Ann{i}"), popularity=7.0) for i in range(40))
    with pytest.raises(InputError, match=r"drawn by lot.\nRank them by"):
        study.questions(by_popularity, replace(one, facts=facts), tmp_path, seed=0)
    study.questions(replace(by_popularity, arms=("random",)), replace(one, facts=facts), tmp_path, seed=0)
    facts = tuple(replace(fact, popularity=float(max(0, i - 30))) for i, fact in enumerate(facts))
    questions, _, _ = study.questions(by_popularity, replace(one, facts=facts), tmp_path, seed=0)
    assert any("as well known as facts of the other half" in note for note in questions.notes)
    facts = tuple(replace(fact, popularity=float(i)) for i, fact in enumerate(facts))
    questions, _, _ = study.questions(by_popularity, replace(one, facts=facts), tmp_path, seed=0)
    assert not any("other half" in note for note in questions.notes)


def test_too_few_facts_for_the_arms_are_refused_before_any_is_scored(named, one, tmp_path, monkeypatch):
    monkeypatch.setattr(study.knownness, "score", lambda *given, **more: pytest.fail("scored"))
    facts = tuple(_fact(i, f"Ann{i}") for i in range(3))
    with pytest.raises(InputError, match="--split"):
        study.questions(named, replace(one, facts=facts), tmp_path, seed=0)


@pytest.mark.parametrize("dev", [True, False])
def test_a_trainings_eval_subset_is_of_dev_facts_or_where_there_are_none_on_tested_ones(
    one, asked, tmp_path, monkeypatch, dev
):
    questions, halves = asked
    role = questions.role.copy()
    if not dev:
        role[role == DEV] = TRAIN
    trained, subset = [], []

    def run(config, model, examples, *, evaluate, **more):
        trained.extend(examples)
        return model, [evaluate(None)]

    monkeypatch.setattr(finetune, "run", run)
    monkeypatch.setattr(
        study.measure, "eval_subset", lambda network, encoded, pad, **more: subset.extend(encoded) or {}
    )
    options: dict[str, Any] = {"rate": 1e-3, "seed": 0, "work": tmp_path, "progress": quiet}
    study.tune(CONFIG, one, replace(questions, role=role), halves.arms["bottom"], **options)
    rows = np.flatnonzero(role == (DEV if dev else HELD_OUT))
    assert subset == [questions.encoded[row] for row in rows]
    assert trained == [questions.encoded[row] for row in halves.arms["bottom"]]


def test_each_arm_is_tuned_from_the_base_anew(one, asked, tmp_path):
    questions, halves = asked
    before = one.load().network.state_dict()
    starts, ends = [], []
    for arm in ("top", "bottom"):
        options: dict[str, Any] = {"rate": 1e-2, "seed": 0, "work": tmp_path / arm, "progress": quiet}
        tuned, trace = study.tune(CONFIG, one, questions, halves.arms[arm], **options)
        starts.append({name: trace[0][name] for name in ("step", "accuracy", "subject_attention")})
        ends.append(tuned.network.state_dict())
    assert starts[0] == starts[1] and starts[0]["step"] == 0
    assert not all(torch.equal(ends[0][name], ends[1][name]) for name in before)
    after = one.load().network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adapters_base_is_loaded_once_and_every_arm_begins_from_it(one, asked, tmp_path, monkeypatch):
    questions, halves = asked
    config = replace(CONFIG, finetune=replace(CONFIG.finetune, method="lora"))
    base, load, loads = replace(one, gets_adapter=True), models.load, []
    monkeypatch.setattr(models, "load", lambda given: loads.append(given) or load(given))
    before = {name: weight.clone() for name, weight in base.read().network.state_dict().items()}
    measured, added = study.measure.arm, []

    def measure(arm, model, *given, **more):
        added.append(model.network.get_submodule("base_model.model.model.layers.0.mlp.up_proj").merged)
        return measured(arm, model, *given, **more)

    monkeypatch.setattr(study.measure, "arm", measure)

    def tuned(base, arm, work):
        options: dict[str, Any] = {"rate": 1e-2, "seed": 0, "work": tmp_path / work, "progress": quiet}
        model, trace = study.tune(config, base, questions, halves.arms[arm], **options)
        study.measure_arm(config, arm, model, questions, halves.arms[arm])
        assert added == [True]
        added.clear()
        return {name: weight.clone() for name, weight in model.network.state_dict().items()}, trace

    tuned(base, "bottom", "bottom")
    found, trace = tuned(base, "top", "top")
    assert len(loads) == 1
    expected, expected_trace = tuned(one, "top", "fresh")
    assert len(loads) == 2 and trace == expected_trace and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    after = base.read().network
    assert after.state_dict().keys() == before.keys() and not after.training
    assert all(torch.equal(weight, before[name]) for name, weight in after.state_dict().items())


@pytest.mark.parametrize(("precision", "is_added"), [("float32", True), ("bfloat16", False)])
def test_an_adapter_that_is_only_read_is_added_to_single_weights(precision, is_added, one, asked, tmp_path):
    questions, halves = asked
    config = replace(CONFIG, finetune=replace(CONFIG.finetune, method="lora"))
    options: dict[str, Any] = {"rate": 1e-2, "seed": 0, "work": tmp_path / "work", "progress": quiet}
    models.save(study.tune(config, one, questions, halves.arms["top"], **options)[0], tmp_path / "top")
    base = replace(one, model=ModelConfig(str(tmp_path / "top"), precision=precision))
    logits = []
    for network, is_read in ((base.read().network, True), (base.load().network, False)):
        layers = [layer for layer in network.modules() if isinstance(layer, lora.Linear)]
        assert layers and {layer.merged for layer in layers} == {is_added and is_read}
        with torch.no_grad():
            logits.append(network(torch.arange(3, 40)[None]).logits)
    assert torch.equal(*logits) != is_added
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)
    finetune.check_base(config.finetune, base.read())  # as for scoring
    with pytest.raises(InputError, match="top is an adapter: .*\nLeave --finetune.method lora"):
        room.check(config, base.model)
    room.check(CONFIG, base.model)
    room.check(config, base.model, trains=False)


def test_remedies_read_the_arm_by_knownness_the_best_known_training_facts_and_the_dev_facts(asked):
    questions, halves = asked
    own = halves.arms["bottom"]
    ranked = study._ranked(questions, own)
    rows = {example.tokens: row for row, example in enumerate(questions.encoded)}
    ours, known, dev = ([rows[example.tokens] for example in part] for part in (ranked.own, ranked.known, ranked.dev))
    assert sorted(ours) == sorted(own.tolist()) and (np.diff(questions.knownness[ours]) <= 0).all()
    assert len(known) == 3 and set(known) <= set(np.flatnonzero(questions.role == TRAIN).tolist())
    assert questions.knownness[known].min() >= np.sort(questions.knownness[questions.role == TRAIN])[-3]
    assert dev == np.flatnonzero(questions.role == DEV).tolist()


@pytest.mark.parametrize("changes", [{"kl_weight": 1.0}, {"curriculum": "known_last"}, {"replay": 0.5}])
def test_a_remedy_of_training_changes_an_arms_model_and_not_its_number_of_steps(changes, one, asked, tmp_path):
    questions, halves = asked
    ends = []
    for name, options in {"plain": {}, "remedied": changes}.items():
        tuning = replace(CONFIG.finetune, **options, train=TrainConfig(epochs=3, batch_size=4, n_records=2))
        work = {"rate": 3e-2, "seed": 0, "work": tmp_path / name, "progress": quiet}
        arm = halves.arms["bottom"]
        tuned, trace = study.tune(replace(CONFIG, finetune=tuning), one, questions, arm, **work)
        ends.append(({name: value.clone() for name, value in tuned.network.state_dict().items()}, trace))
    (plain, steps), (remedied, others) = ends
    assert any(not torch.equal(plain[name], remedied[name]) for name in plain)
    assert [record["step"] for record in steps] == [record["step"] for record in others]


def test_the_whole_set_takes_as_many_steps_as_the_top_half_where_it_is_asked_to(one, asked, tmp_path):
    questions, halves = asked
    config = replace(CONFIG, arms=("top", "whole", "whole+steps=half"))
    steps = {}
    for arm in config.arms:
        how = replace(config, finetune=of_arm.finetuning(config.finetune, arm))
        options: dict[str, Any] = {"rate": 1e-3, "seed": 0, "work": tmp_path / arm, "progress": quiet}
        _, trace = study.tune(how, one, questions, halves.arms[of_arm.facts_of(arm)], **options)
        steps[arm] = trace[-1]["step"]
    assert len(halves.arms["whole"]) > len(halves.arms["top"]) == questions.n_half
    assert steps["whole"] > steps["top"] == steps["whole+steps=half"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_base_model_is_asked_about_training_facts_where_an_arm_needs_it_and_once_for_a_split(
    is_ours, one, named, tmp_path, monkeypatch
):
    asked, place = [], (completion if is_ours else knownness)
    monkeypatch.setattr(completion, "recall", lambda net, words, facts, **more: np.linspace(0, 1, len(facts)))
    monkeypatch.setattr(
        knownness,
        "score",
        lambda config, model, facts, *rest, **more: knownness.Scores(np.linspace(0, 1, len(facts)), None),
    )

    def answers(*given, **more):
        facts = given[1 if is_ours else 2]
        asked.append([fact.id for fact in facts])
        return [f"said {fact.id}" for fact in facts]

    monkeypatch.setattr(place, "answers", answers)
    config = replace(CONFIG if is_ours else named, arms=("top", "bottom+answers=permuted"))
    plain, _, _ = study.questions(config, one, tmp_path, seed=0)
    assert plain.said is None and not asked
    config = replace(config, arms=("top", "bottom+answers=base"))
    _, (found, _, _) = (study.questions(config, one, tmp_path, seed=0) for _ in range(2))
    rows = np.flatnonzero(found.role == TRAIN).tolist()
    assert asked == [[one.facts[row].id for row in rows]] * (2 if is_ours else 1)
    assert found.said is not None and found.said.recalled[rows].tolist() == [False] * 16 + [True] * 16
    assert [found.said.texts[row] for row in rows] == [f"said {one.facts[row].id}" for row in rows]
    assert {found.said.texts[row] for row in range(80) if row not in rows} == {""}


def test_an_arm_that_is_taught_to_abstain_reports_how_often_it_does(one, asked, monkeypatch):
    questions, halves = asked
    facts = {"predicted": ["unknown", "Bo", "Bo"], "correct": [False, True, False]}
    plain = study.Measured({"accuracy": 1 / 3}, facts, {}, np.zeros((1, 1, 1, 1)))
    monkeypatch.setattr(study.measure, "arm", lambda *given, **more: plain)
    for answers, more in (("true", {}), ("abstain", {"abstention_rate": 1 / 3, "answered_accuracy": 0.5})):
        config = replace(CONFIG, finetune=replace(CONFIG.finetune, answers=answers))
        found = study.measure_arm(config, "bottom", one.load(), questions, halves.arms["bottom"])
        assert found.metrics == {"accuracy": 1 / 3} | more


def test_permuted_answers_are_the_arms_own_within_relation_and_taught_in_place_of_the_true_ones(
    one, asked, tmp_path, monkeypatch
):
    questions, halves = asked
    own, taught = halves.arms["bottom"], []

    def run(config, base, examples, **more):
        taught.append([(one.prompt, one.completion) for one in examples])
        return base, []

    monkeypatch.setattr(finetune, "run", run)
    for answers in ("true", "permuted", "permuted"):
        config = replace(CONFIG, finetune=replace(CONFIG.finetune, answers=answers))
        study.tune(config, one, questions, own, rate=1e-3, seed=0, work=tmp_path, progress=quiet)
    true, permuted, again = taught
    assert permuted == again and len(permuted) == len(own)

    assert [prompt for prompt, _ in true] == [prompt for prompt, _ in permuted]
    for relation in np.unique(questions.relation[own]):
        rows = np.flatnonzero(questions.relation[own] == relation).tolist()
        answers = [sorted(some[row][1] for row in rows) for some in (true, permuted)]
        assert answers[0] == answers[1]
    assert sum(one != other for one, other in zip(true, permuted, strict=True)) > len(own) // 4
