"""A study of seconds: what it leaves behind, and that an interruption changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from core import runs, split
from core.columns import ATTENTION, FACTS, TRACE
from core.errors import InputError
from core.seeds import Cell
from core.split import ARMS, SplitConfig
from empirical import config as configs
from empirical import facts, runner, study
from empirical.config import Config
from empirical.evaluate import EvaluateConfig
from empirical.facts import FactsConfig
from empirical.finetune import FinetuneConfig
from empirical.knownness import KnownnessConfig
from empirical.lm import checkpoint, generate, reading
from empirical.lm.model import ModelConfig
from empirical.lm.train import TrainConfig
from empirical.pretrain import PretrainConfig
from empirical.worlds.world import Exposure, WorldConfig

CONFIG = Config(
    world=WorldConfig(
        n_subjects=40, n_relations=2, facts_per_subject=1, n_answers=5, exposure=Exposure(low=0.5, high=80.0)
    ),
    pretrain=PretrainConfig(
        d_model=16, layers=1, heads=2, key_value_heads=1, vocabulary=400, batch_size=32, checkpoint_every=5, n_probes=2
    ),
    split=SplitConfig(held_out=0.4, dev=0.1),
    finetune=FinetuneConfig(
        learning_rates=(1e-3, 1e-2), train=TrainConfig(epochs=4, batch_size=4, checkpoint_every=2, n_records=2)
    ),
    evaluate=EvaluateConfig(max_new_tokens=3),
)
CELL = Cell(0, 0, 1)
ANY = {"seed": 0, "progress": lambda doing, share: None}


class Stop(Exception):
    """As Ctrl-C would."""


def _run(config, out, *, stop_at=None, **options):
    seen = []

    def progress(doing, share):
        seen.append(doing)
        if stop_at is not None and len(seen) == stop_at:
            raise Stop

    runner.run(config, facts.load(config.facts), "small", [CELL], out, progress=progress, **options)
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted study, and what its progress was told."""
    out = tmp_path_factory.mktemp("whole")
    return out, _run(CONFIG, out)


def _found(out):
    run = runs.read_run(runs.directory(out, "empirical", "small", CELL))
    return {key: run.report[key] for key in ("metrics", "choices", "split")}, run


def test_a_run_has_the_files_and_columns_that_both_flows_write(whole):
    report, run = _found(whole[0])
    assert set(report["metrics"]) == {"base", *ARMS} and set(report["choices"]) == set(ARMS)
    for name, schema in {"facts": FACTS, "trace": TRACE, "attention": ATTENTION}.items():
        assert run.table(name).schema.names == schema.names
    facts = run.table("facts").to_pylist()
    assert {row["arm"] for row in facts} == {"base", *ARMS}
    assert {row["role"] for row in facts} == {"held_out"} and not any(row["in_arm"] for row in facts)
    assert len(facts) == 5 * report["split"]["held_out"]
    reached = run.report["throughput"]
    assert set(reached) == set(ARMS)
    for arm, own in reached.items():
        n_epochs, n_trained = CONFIG.finetune.train.epochs, report["metrics"][arm]["n_trained"]
        assert own["facts"] == n_epochs * n_trained and own["utilisation"] > 0 and own["tokens_per_second"] > 0
    masses = run.arrays("attention_by_question")
    assert {mass.shape for mass in masses.values()} == {(report["split"]["held_out"], 1, 2, 4)}
    for mass in masses.values():
        np.testing.assert_allclose(mass.astype(float).sum(-1), 1, atol=2e-3)


def test_only_the_finished_run_and_what_seeds_share_is_left(whole):
    folder = runs.directory(whole[0], "empirical", "small", CELL).parent
    assert sorted(path.name for path in folder.iterdir()) == [".shared", "seed_1"]


def test_a_finished_run_is_not_run_again(whole):
    assert runs.unfinished(whole[0], "empirical", "small", [CELL], configs.to_json(CONFIG), overwrite=False) == []
    assert runs.unfinished(
        whole[0], "empirical", "small", [CELL, Cell(0, 0, 2)], configs.to_json(CONFIG), overwrite=False
    ) == [Cell(0, 0, 2)]
    assert runs.unfinished(whole[0], "empirical", "small", [CELL], configs.to_json(CONFIG), overwrite=True) == [CELL]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_study_of_another_config_is_refused_also_under_another_seed(whole, seed):
    other = replace(CONFIG, evaluate=EvaluateConfig(max_new_tokens=4))
    with pytest.raises(InputError, match=r"max_new_tokens: 3 → 4(.|\n)*--overwrite(.|\n)*--out"):
        runs.unfinished(whole[0], "empirical", "small", [Cell(0, 0, seed)], configs.to_json(other), overwrite=False)


def test_a_study_from_before_there_were_remedies_is_refused_by_their_names_and_its_config_is_still_read(tmp_path):
    stored = configs.to_json(CONFIG)
    of_remedies = {"early_stopping", "kl_weight", "curriculum", "replay"}
    tuned = {name: value for name, value in stored["finetune"].items() if name not in of_remedies}
    path = runs.directory(tmp_path, "empirical", "small", CELL)
    runs.write_run(path, {"config": stored | {"finetune": tuned}, "seeds": CELL._asdict()}, {})
    told = r"finetune.early_stopping: absent → False(.|\n)*and 1 more(.|\n)*--overwrite(.|\n)*--out"
    with pytest.raises(InputError, match=told):
        runs.unfinished(tmp_path, "empirical", "small", [CELL], stored, overwrite=False)
    assert configs.from_json(runs.read_run(path).report["config"]) == CONFIG


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_an_interrupted_study_ends_as_if_it_had_not_been(whole, share, tmp_path):
    out, told = whole
    with pytest.raises(Stop):
        _run(CONFIG, tmp_path, stop_at=max(2, round(share * len(told))))
    assert not runs.directory(tmp_path, "empirical", "small", CELL).exists()
    again = _run(CONFIG, tmp_path)
    assert len(again) < len(told)
    (expected, first), (found, second) = _found(out), _found(tmp_path)
    assert found == expected
    for name in ("facts", "trace", "attention"):
        assert second.table(name).equals(first.table(name))


def test_the_split_is_the_toys_own_function(tmp_path, whole, monkeypatch):
    drawn = []
    roles, arms = split.roles, split.arms
    monkeypatch.setattr(split, "roles", lambda *given, **more: drawn.append("roles") or roles(*given, **more))
    monkeypatch.setattr(split, "arms", lambda *given, **more: drawn.append("arms") or arms(*given, **more))
    one = study.base(CONFIG, None, whole[0], seed=0, progress=lambda doing, share: None)
    questions, halves, _ = study.questions(CONFIG, one, tmp_path, seed=0)
    assert drawn == ["roles", "arms"]
    held_out = set(questions.held_out.tolist())
    subjects = set(questions.subject[questions.held_out].tolist())
    for rows in halves.arms.values():
        assert not held_out & set(rows.tolist())
        assert not subjects & set(questions.subject[rows].tolist())
    assert halves.arms["top"].size == halves.arms["bottom"].size == halves.arms["random"].size
    assert questions.knownness[halves.arms["top"]].min() >= questions.knownness[halves.arms["bottom"]].max()


def test_too_few_questions_for_the_arms_is_an_error_before_anything_is_trained(tmp_path, whole, monkeypatch):
    few = replace(CONFIG, split=SplitConfig(held_out=0.97, dev=0.0), finetune=FinetuneConfig())
    monkeypatch.setattr(study, "measure_base", lambda *_: pytest.fail("measured"))
    (tmp_path / "models").symlink_to(whole[0] / "models")
    with pytest.raises(InputError):
        _run(few, tmp_path)


def test_multiple_choice_runs_through(tmp_path, whole):
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    lines = [f"Which is {n}?,one,two,three,four,{'ABCD'[n % 4]}" for n in range(40)]
    (tmp_path / "mmlu" / "test" / "world_history_test.csv").write_text("\n".join(lines))
    (tmp_path / "models").symlink_to(whole[0] / "models")
    config = replace(
        CONFIG,
        facts=FactsConfig(source="mmlu", path=tmp_path / "mmlu", part="test"),
        knownness=replace(CONFIG.knownness, measure="logprob"),
        finetune=replace(CONFIG.finetune, learning_rates=(1e-3,), train=TrainConfig(epochs=1, batch_size=8)),
    )
    _run(config, tmp_path)
    report, run = _found(tmp_path)
    rows = run.table("facts").to_pylist()
    assert {row["predicted"] for row in rows} <= set("ABCD")
    assert all(row["substring_match"] is None and row["subject_attention"] is None for row in rows)
    assert report["metrics"]["top"]["subject_attention"] is None


def _counted(patch):
    """Return a list that grows with each question or answer that the model is asked about."""
    asked = []
    for module, name in ((generate, "answer_logprob"), (reading, "read")):
        ask = getattr(module, name)
        patch.setattr(module, name, lambda *given, ask=ask, **more: asked.append(1) or ask(*given, **more))
    return asked


@pytest.fixture(scope="module")
def named(whole, tmp_path_factory):
    """Return a study of a named model on a table's questions, and where it ran whole: what it told and how it asked."""
    folder = tmp_path_factory.mktemp("named")
    lines = [f"What is the job of Ann{i}?,{'cook' if i % 3 else 'smith'},Ann{i},job{i % 2}" for i in range(40)]
    (folder / "questions.csv").write_text("\n".join(["question,answer,subject,relation", *lines]))
    (model,) = (path for path in (whole[0] / "models").iterdir() if path.is_dir())
    config = replace(
        CONFIG,
        facts=FactsConfig(source="table", path=folder / "questions.csv"),
        model=ModelConfig(name=str(model)),
        knownness=KnownnessConfig(measure="logprob", shots=1, n_prompts=2, samples=2, classes=True),
        split=SplitConfig(held_out=0.4, dev=0.1, within_relation=True),
        arms=("top", "bottom"),
    )
    with pytest.MonkeyPatch.context() as patch:
        asked = _counted(patch)
        told = _run(config, folder)
    return config, folder, told, len(asked)


@pytest.mark.parametrize("doing", ["scoring", "top: swapped subjects", "bottom: answers to the arm's own questions"])
def test_a_named_models_study_goes_on_within_scoring_and_measuring(named, doing, tmp_path, monkeypatch):
    config, out, told, _ = named
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.0)  # a checkpoint after every step, the last one too
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    asked = _counted(monkeypatch)
    with pytest.raises(Stop):
        _run(config, tmp_path, stop_at=1 + max(place for place, text in enumerate(told) if text.endswith(doing)))
    made = [path for path in tmp_path.rglob("*") if path.suffix == ".npz" and ".work" in str(path)]
    n_asked = len(asked)
    _run(config, tmp_path)
    assert made and not any(path.exists() for path in made)
    assert 0 < n_asked and len(asked) <= named[3] + 1  # what was interrupted is made twice at most
    expected, found = _found(out), _found(tmp_path)
    assert found[0] == expected[0]
    for name in ("facts", "trace", "attention"):
        assert found[1].table(name).equals(expected[1].table(name))


def test_what_the_base_model_answers_is_asked_once_for_all_seeds(named, tmp_path, monkeypatch):
    config, asked = named[0], []
    (tmp_path / "scores").symlink_to(named[1] / "scores")
    monkeypatch.setattr(study.knownness, "score", lambda *given, **more: asked.append(given))
    study.questions(config, study.base(config, facts.load(config.facts), tmp_path, **ANY), tmp_path, seed=0)
    assert asked == []
