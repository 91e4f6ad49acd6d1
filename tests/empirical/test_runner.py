"""A study from the command line in this process: what it writes, what it finds done, and how it goes on."""

import json
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from core import lock
from core import runs as results
from core.arms import CLASSES
from core.seeds import Cell
from core.split import ARMS
from empirical import __main__ as command_line
from empirical import cell, measure, mediation, model_commands, runner, shared, study
from empirical import config as configs
from empirical.lm import model

FLAGS = (
    "--pretrain-seeds 1 --world.n-subjects 40 --world.n-relations 2 --world.facts-per-subject 1 --world.n-answers 5 "
    "--world.exposure.low 0.5 --world.exposure.high 40 --pretrain.d-model 16 --pretrain.layers 1 --pretrain.heads 2 "
    "--pretrain.key-value-heads 1 --pretrain.vocabulary 400 --pretrain.batch-size 32 --pretrain.checkpoint-every 5 "
    "--pretrain.n-probes 1 --finetune.learning-rates 1e-3 1e-2 --finetune.train.epochs 2 --finetune.train.batch-size 4 "
    "--finetune.train.checkpoint-every 2 --finetune.train.n-records 1 --evaluate.max-new-tokens 4"
).split()


@pytest.fixture
def tell(capsys):
    """Run a command; returns its exit code and what it printed, in one line each."""

    def run(*arguments):
        code = command_line.main([str(one) for one in arguments])
        printed = capsys.readouterr()
        return code, " ".join(printed.out.split()), " ".join(printed.err.split())

    return run


def _counting(name, stage, calls):
    def call(*given, **more):
        calls[name] += 1
        return stage(*given, **more)

    return call


def counted(patch) -> Counter:
    """Return the count of calls of a study's long stages, from now on."""
    calls = Counter()
    for name in ("measure_base", "tune", "measure_arm"):
        patch.setattr(study, name, _counting(name, getattr(study, name), calls))
    return calls


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a study of two finetuning seeds, not to be changed, and how often each stage was called."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        calls = counted(patch)
        assert command_line.main(["run", "tiny", *FLAGS, "--seeds", "2", "--out", str(out)]) == 0
    return out, calls


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """Return a copy of the finished study."""
    return shutil.copytree(finished[0], tmp_path / "runs")


def directory(out: Path, seed: int) -> Path:
    return results.directory(out, "empirical", "tiny", Cell(0, 0, seed))


def config_of(out: Path) -> configs.Config:
    return configs.from_json(results.read_run(directory(out, 0)).report["config"])


def files(out: Path, *, hidden: bool = True) -> dict[str, tuple[int, bytes]]:
    """Return every file under the study's results, with its time and content."""
    paths = [path for path in sorted((out / "empirical").rglob("*")) if path.is_file()]
    found = {str(path.relative_to(out / "empirical/tiny")): path for path in paths}
    return {name: (p.stat().st_mtime_ns, p.read_bytes()) for name, p in found.items() if hidden or "/." not in name}


def same(one: Path, other: Path) -> bool:
    """Return whether two runs say the same, but for the time that they took and the model's folder."""
    first, second = results.read_run(one), results.read_run(other)
    said = [{key: run.report[key] for key in ("config", "metrics", "choices", "split")} for run in (first, second)]
    return said[0] == said[1] and all(first.table(name).equals(second.table(name)) for name in cell.TABLES)


def test_a_study_leaves_a_directory_a_run_and_its_predictions(finished):
    names = ["attention.parquet", "attention_by_question.npz", "facts.parquet", "rates.parquet", "report.json"]
    names.append("trace.parquet")
    expected = [f"pretrain_0/split_0/seed_{seed}/{name}" for seed in range(2) for name in names]
    assert sorted(files(finished[0], hidden=False)) == sorted([*expected, "predictions.parquet"])
    report = results.read_run(directory(finished[0], 1)).report
    assert (report["flow"], report["experiment"], report["schema"]) == ("empirical", "tiny", results.SCHEMA)
    assert report["seeds"] == {"pretrain": 0, "split": 0, "seed": 1}
    assert {"versions", "device", "git_commit", "config_hash", "notes", "model", "seconds"} <= set(report)
    assert list(report["metrics"]) == ["base", *ARMS]
    assert all(choice["learning_rate"] in (1e-3, 1e-2) for choice in report["choices"].values())
    assert all(set(choice["dev_accuracy"]) == {"0.001", "0.01"} for choice in report["choices"].values())


def test_finetuning_seeds_share_the_base_models_measurements_and_the_chosen_rates(finished):
    out, calls = finished
    assert calls == {"measure_base": 1, "tune": (2 + 1) * len(ARMS), "measure_arm": 2 * len(ARMS)}
    first, second = (results.read_run(directory(out, seed)) for seed in range(2))
    assert first.report["choices"] == second.report["choices"]
    assert first.report["metrics"]["base"] == second.report["metrics"]["base"]
    assert not first.table("trace").equals(second.table("trace"))
    assert first.table("rates").equals(second.table("rates"))


def test_what_each_rate_answers_is_stored_and_the_chosen_ones_are_the_answers_of_seed_0(finished):
    run = results.read_run(directory(finished[0], 0))
    tried, facts = run.table("rates").to_pylist(), run.table("facts").to_pylist()
    assert {(row["arm"], row["learning_rate"]) for row in tried} == {
        (arm, rate) for arm in ARMS for rate in (1e-3, 1e-2)
    }
    right = {(row["arm"], row["learning_rate"], row["fact"]): row["correct"] for row in tried}
    for arm, choice in run.report["choices"].items():
        own = [row for row in facts if row["arm"] == arm]
        assert [right[arm, choice["learning_rate"], row["fact"]] for row in own] == [row["correct"] for row in own]
    rows = results.read_table(finished[0] / "empirical/tiny/predictions.parquet").to_pylist()
    assert [row["stratum"] for row in rows if row["result"] == "common_rate"] == ["rate 0.001", "rate 0.01"]


def test_the_bar_never_goes_back_for_what_another_process_left(finished, tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(finished[0] / "models")
    config, told = replace(config_of(finished[0]), arms=("top",)), []
    monkeypatch.setattr(runner, "WAIT", 0.0)
    other = ExitStack()  # it is at the base model's measurements

    def progress(doing, done):
        told.append((doing, done))
        if doing == "waiting for another process":
            other.close()

    other.enter_context(lock.held(tmp_path / "empirical/tiny/pretrain_0/.locks/split_0..shared.base", wait=False))
    assert runner.run(config, None, "tiny", [Cell(0, 0, 0)], tmp_path, progress=progress) == (1, True)
    what, shares = zip(*told, strict=True)
    base, arm = (next(i for i, doing in enumerate(what) if text in doing) for text in ("base:", "top: finetuning"))
    assert arm < base and list(shares) == sorted(shares) and shares[-1] == 1


def test_what_is_done_is_found_done_without_a_model_and_left_as_it_is(runs, tell, monkeypatch):
    before = files(runs)
    monkeypatch.setattr(model, "load", lambda *_: pytest.fail("a model was loaded"))
    code, printed, _ = tell("run", "tiny", *FLAGS, "--seeds", 2, "--out", runs)
    assert code == 0 and "0 runs made, 2 found done" in printed
    assert all(arm in printed for arm in ("base", *ARMS, "top − bottom"))
    assert {n: v for n, v in files(runs).items() if "seed" in n} == {n: v for n, v in before.items() if "seed" in n}


def test_another_config_is_refused_under_any_seed_until_every_run_is_overwritten(runs, tell):
    before = files(runs)
    other = ["run", "tiny", *FLAGS, "--arms", "top", "bottom", "--out", runs]
    for seeds in (["--seeds", 2], ["--seed", 7], ["--seed", 0, "--overwrite"]):
        code, _, error = tell(*other, *seeds)
        assert code == 2 and "another config" in error and "--overwrite" in error and "--out" in error
        assert files(runs) == before
    assert tell(*other, "--seeds", 2, "--overwrite")[0] == 0
    for seed in range(2):
        run = results.read_run(directory(runs, seed))
        assert (
            list(run.report["metrics"]) == run.table("facts")["arm"].unique().to_pylist() == ["base", "top", "bottom"]
        )
    rows = results.read_table(runs / "empirical/tiny/predictions.parquet").to_pylist()
    assert {row["arm"] for row in rows} == {"top − bottom", "bottom − top"}


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("pretraining", {"measure_base": 1, "tune": 8, "measure_arm": 4}),
        ("top", {"tune": 8, "measure_arm": 4}),
        ("whole", {"tune": 4, "measure_arm": 2}),
    ],
)
def test_ctrl_c_keeps_what_is_finished_and_changes_nothing(finished, tmp_path, monkeypatch, moment, left):
    config = config_of(finished[0])

    def interrupted(doing, done):
        if f" {moment}" in doing and "loss" in doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(config, None, "tiny", [Cell(0, 0, 0)], tmp_path, progress=interrupted)
    assert not directory(tmp_path, 0).exists()
    calls, told = counted(monkeypatch), []
    runner.run(config, None, "tiny", [Cell(0, 0, 0)], tmp_path, progress=lambda doing, done: told.append(done))
    assert calls == left
    assert same(directory(tmp_path, 0), directory(finished[0], 0))
    # The bar is the whole run's, and it reaches its end.
    assert 0 <= told[0] < told[-1] == 1


def test_overwriting_takes_up_no_training_of_another_config(finished, tmp_path):
    """A killed run's checkpoints lie where the new one's will."""
    (tmp_path / "models").symlink_to(finished[0] / "models")
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh/models").symlink_to(finished[0] / "models")
    config = replace(config_of(finished[0]), arms=("top",))
    config = replace(config, finetune=replace(config.finetune, learning_rates=(1e-2,)))
    other = replace(config, finetune=replace(config.finetune, train=replace(config.finetune.train, weight_decay=0.9)))
    tried = []

    def interrupted(doing, done):
        tried.append(doing)
        if sum(" top" in one and "loss" in one for one in tried) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(config, None, "tiny", [Cell(0, 0, 0)], tmp_path, progress=interrupted)
    assert list(tmp_path.rglob("checkpoint.pt"))
    runner.run(other, None, "tiny", [Cell(0, 0, 0)], tmp_path, overwrite=True, progress=lambda doing, done: None)
    runner.run(other, None, "tiny", [Cell(0, 0, 0)], tmp_path / "fresh", progress=lambda doing, done: None)
    assert same(directory(tmp_path, 0), directory(tmp_path / "fresh", 0))
    assert not [path for path in (tmp_path / "empirical").rglob("checkpoint.pt")]


def test_questions_that_changed_since_are_noticed(finished, tmp_path, tell, monkeypatch):
    """Of a study, by what is finished and what is half done."""
    (base,) = (path for path in (finished[0] / "models").iterdir() if path.is_dir())
    table = tmp_path / "questions.csv"
    rows = [f"Who is Ann{i}?,Bo{i % 5},Ann{i},{i}" for i in range(60)]
    flags = ["--model.name", base, "--facts.source", "table", "--facts.path", table, "--split.dev", 0.0]
    flags += ["--knownness.measure", "popularity", "--finetune.learning-rates", 1e-3, "--arms", "top", "bottom"]
    flags += ["--finetune.train.epochs", 1, "--evaluate.max-new-tokens", 4]

    def study_of(rows, out, *more):
        table.write_text("\n".join(["question,answer,subject,popularity", *rows]))
        return tell("run", "tiny", *flags, "--out", tmp_path / out, *more)

    changed = [*rows[:-1], "Who is Eve?,Bo1,Eve,60"]
    assert study_of(rows, "whole")[0] == 0
    assert "0 runs made, 1 found done" in study_of(rows, "whole")[1]
    for more in ((), ("--split-seeds", 1, "--seeds", 2)):
        code, _, error = study_of(changed, "whole", *more)
        assert code == 2 and "other facts" in error and "--overwrite" in error
    assert study_of(changed, "whole", "--overwrite")[0] == 0

    measured, seen = study.measure_arm, []

    def once(config, arm, *given, **more):
        seen.append(arm)
        if arm == "bottom":
            raise KeyboardInterrupt
        return measured(config, arm, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(study, "measure_arm", once)
        assert study_of(rows, "cut")[0] == 130
    code, _, error = study_of(changed, "cut")
    assert code == 2 and "other facts" in error
    assert study_of(changed, "cut", "--overwrite")[0] == 0
    assert same(directory(tmp_path / "cut", 0), directory(tmp_path / "whole", 0))


def test_other_weights_in_a_folder_of_the_same_name_are_another_model(finished, tmp_path, tell, monkeypatch):
    """Of a study by what is finished, by what is half done, and by what was scored; of a table by what it says."""
    (base,) = (path for path in (finished[0] / "models").iterdir() if path.is_dir())
    folder = shutil.copytree(base, tmp_path / "model")
    flags = _named(finished, tmp_path, "--arms", "top", "--knownness.measure", "logprob", "--model.name", folder)
    ask = ["evaluate", *flags[: flags.index("--arms")], "--model.name", folder]

    def scores(out):
        return results.read_run(directory(tmp_path / out, 0)).table("facts")["knownness"]

    assert tell("run", "tiny", *flags)[0] == tell(*ask)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(study, "measure_arm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert tell("run", "tiny", *flags, "--out", tmp_path / "cut")[0] == 130
    weights = load_file(folder / "model.safetensors")
    save_file({name: -one for name, one in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    for out in ("out", "cut"):
        code, _, error = tell("run", "tiny", *flags, "--out", tmp_path / out)
        assert code == 2 and "of another base model: its weights differ" in error and "--overwrite" in error
    code, _, error = tell(*ask)
    assert code == 2 and "questions or weights" in error
    before = scores("out")
    assert tell("run", "tiny", *flags, "--overwrite")[0] == 0
    assert tell("run", "tiny", *flags, "--out", tmp_path / "fresh")[0] == 0
    assert scores("out") == scores("fresh") != before
    assert same(directory(tmp_path / "out", 0), directory(tmp_path / "fresh", 0))


def _named(finished, tmp_path, *more) -> list:
    """Return the flags of a study that asks the finished one's model 80 questions, one answer of them common."""
    (base,) = (path for path in (finished[0] / "models").iterdir() if path.is_dir())
    answers = ["Bo" if i % 2 else f"Cy{i % 16}" for i in range(80)]
    rows = [f"Who is Ann{i}?,{answer},Ann{i},{i // 2 % 20}" for i, answer in enumerate(answers)]
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer,subject,popularity", *rows]))
    flags = ["--model.name", base, "--facts.source", "table", "--facts.path", tmp_path / "questions.csv"]
    flags += ["--split.dev", 0.0, "--finetune.learning-rates", 1e-3, "--finetune.train.epochs", 1]
    flags += ["--knownness.measure", "popularity", "--knownness.shots", 1]
    flags += ["--knownness.n-prompts", 1, "--knownness.samples", 1]
    return [*flags, "--evaluate.max-new-tokens", 4, "--out", tmp_path / "out", *more]


def test_arms_by_answer_matched_crossed_and_by_size_are_finetuned_and_compared(finished, tmp_path, tell, monkeypatch):
    arms = ["top", "bottom", "common", "rare", "top_matched", "bottom_matched", "size_10"]
    arms += ["bottom+answers=abstain", "known_common", "known_rare", "unknown_common", "unknown_rare"]
    measured, owned = study.measure_arm, {}

    def measure_arm(config, arm, tuned, questions, own, **more):
        owned[arm] = own
        return measured(config, arm, tuned, questions, own, **more)

    monkeypatch.setattr(study, "measure_arm", measure_arm)
    monkeypatch.setattr(shared.evaluate, "CHANCE", 1.1)
    code, _, error = tell("run", "tiny", *_named(finished, tmp_path, "--arms", *arms))
    assert code == 0 and "as guessing would: there is nothing to lose" in error
    run = results.read_run(directory(tmp_path / "out", 0))
    assert list(run.report["metrics"]) == ["base", *arms] == run.table("facts")["arm"].unique().to_pylist()
    assert set(run.table("facts")["known_class"].to_pylist()) == {None}
    for arm, metrics in run.report["metrics"].items():  # measured as the arm's own settings say
        assert ("abstention_rate" in metrics) == (arm == "bottom+answers=abstain")
    is_common = {arm: np.mean(own % 2) for arm, own in owned.items()}  # odd rows have the common answer
    assert is_common["top_matched"] == is_common["bottom_matched"]
    popularity = {arm: own // 2 % 20 for arm, own in owned.items()}
    assert is_common["rare"] < 0.2 and is_common["common"] > 0.8
    assert {is_common[arm] for arm in ("known_common", "unknown_common")} == {1.0}
    assert popularity["known_rare"].min() >= popularity["unknown_rare"].max()
    assert len(owned["size_10"]) == 5 and len({len(owned[arm]) for arm in arms[-4:]}) == 1
    rows = results.read_table(tmp_path / "out/empirical/tiny/predictions.parquet").to_pylist()
    found = {row["arm"] for row in rows if row["result"] in ("g", "crossed", "matched", "rarity")}
    assert {"rare − common", "top_matched − bottom_matched", "effect of rarity, known − unknown"} <= found
    assert "rare − common, of equal knownness" in found
    assert "0 runs made, 1 found done" in tell("run", "tiny", *_named(finished, tmp_path, "--arms", *arms))[1]


def test_classes_of_knownness_stand_in_facts_and_are_arms_where_they_are_asked_for(
    finished, tmp_path, tell, monkeypatch
):
    classes = []

    def classify(greedy, sampled):
        classes.append(np.arange(len(greedy)) * 7 % 4)
        return classes[-1]

    monkeypatch.setattr(study.knownness, "classify", classify)
    arms = ["maybe_known", "unknown"]
    code, _, error = tell("run", "tiny", *_named(finished, tmp_path, "--arms", *arms))
    assert code == 2 and "Add --knownness.classes" in error
    flags = _named(finished, tmp_path, "--arms", *arms, "--knownness.classes")
    assert tell("run", "tiny", *flags)[0] == 0
    run = results.read_run(directory(tmp_path / "out", 0))
    table = run.table("facts")
    expected = [CLASSES[classes[0][row]] for row in table["fact"].to_pylist()]
    assert table["known_class"].to_pylist() == expected and set(expected) == set(CLASSES)
    assert tell("run", "tiny", *flags, "--split-seeds", 1, "--seeds", 2)[0] == 0
    assert len(classes) == 1  # asked once for a split, and kept


@pytest.mark.parametrize("other", ["rate", "questions", None])
def test_an_interrupted_finetuning_goes_on_as_the_same_and_never_as_another(
    finished, tmp_path, tell, monkeypatch, other
):
    (base,) = (path for path in (finished[0] / "models").iterdir() if path.is_dir())
    rows = [f"Who is Ann{i}?,Bo{i % 5},Ann{i},{i}" for i in range(60)]
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer,subject,popularity", *rows]))
    settings = {
        "--model.name": base,
        "--facts.source": "table",
        "--facts.path": tmp_path / "questions.csv",
        "--split.dev": 0.0,
        "--knownness.measure": "popularity",
        "--finetune.train.batch-size": 2,
        "--finetune.train.checkpoint-every": 2,
    }
    steps = []

    def finetune(rate, out, stop_at=None):
        def tell_step(doing, done):
            if "loss" in doing:
                steps.append(doing)
            if len(steps) == stop_at:
                raise KeyboardInterrupt

        steps.clear()
        monkeypatch.setattr(model_commands, "absolute", lambda told: tell_step)
        flags = settings | {"--finetune.learning-rates": rate, "--out": out}
        return tell("finetune", *(part for flag in flags.items() for part in flag))[0], len(steps)

    assert finetune("1e-2", tmp_path / "cut", stop_at=10) == (130, 10)
    if other == "questions":
        (tmp_path / "questions.csv").write_text("\n".join(["question,answer,subject,popularity", *reversed(rows)]))
    rate = "1e-3" if other == "rate" else "1e-2"
    code, n_steps = finetune(rate, tmp_path / "whole")
    assert code == 0
    assert finetune(rate, tmp_path / "cut") == (0, n_steps - 10 * (other is None))
    weights = [(tmp_path / out / "top/model.safetensors").read_bytes() for out in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["scores", "top"]


def test_a_runs_own_config_makes_the_same_run_again(finished, tmp_path, tell):
    source = directory(finished[0], 1)
    (tmp_path / "models").symlink_to(finished[0] / "models")
    code, printed, _ = tell(
        "run", "tiny-lora", "--from-run", source, "--pretrain-seeds", 1, "--seed", 1, "--out", tmp_path
    )
    assert code == 0 and "1 runs made, 0 found done" in printed
    assert same(results.directory(tmp_path, "empirical", "tiny-lora", Cell(0, 0, 1)), source)
    assert tell("run", "tiny", "--from-run", tmp_path / "gone")[0] == 2


def test_compare_writes_the_predictions_again_from_the_runs_alone(runs, tell, monkeypatch):
    path = runs / "empirical/tiny/predictions.parquet"
    expected = results.read_table(path)
    path.unlink()
    monkeypatch.setattr(model, "load", lambda *_: pytest.fail("a model was loaded"))
    code, printed, _ = tell("compare", "--out", runs)
    assert code == 0 and results.read_table(path).equals(expected)
    assert "Ghosal et al. 2024" in printed
    code, _, error = tell("compare", "tiny-mmlu", "--out", runs)
    assert code == 2 and "no finished runs of tiny-mmlu" in error


def test_a_damaged_run_is_named(runs, tell):
    facts = directory(runs, 0) / "facts.parquet"
    facts.write_bytes(facts.read_bytes()[:500])
    code, _, error = tell("compare", "--out", runs)
    assert code == 2 and str(facts) in error
    (directory(runs, 1) / "report.json").write_text("{")
    code, _, error = tell("run", "tiny", *FLAGS, "--seed", 1, "--out", runs)
    assert code == 2 and "--overwrite" in error


def test_a_split_seed_holds_out_other_facts_of_the_same_base_model(finished, tmp_path):
    config = config_of(finished[0])
    base = study.base(config, None, finished[0], seed=0, progress=lambda doing, done: None)
    (one, arms, _), (other, _, _), (again, same_arms, _) = (
        study.questions(config, base, tmp_path, seed=seed) for seed in (0, 1, 0)
    )
    assert set(one.held_out.tolist()) != set(other.held_out.tolist())
    np.testing.assert_array_equal(one.held_out, again.held_out)
    for arm in ARMS:
        np.testing.assert_array_equal(arms.arms[arm], same_arms.arms[arm])


def test_a_dry_run_shows_the_config_that_a_run_stores(finished, capsys):
    assert command_line.main(["run", "tiny", *FLAGS, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == results.read_run(directory(finished[0], 0)).report["config"]


GIVEN = ["--mediation.pairs", "bottom:top", "--mediation.patches", "attention@subject", "mlp@end", "layer@all"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_kept_models_are_measured_anew_without_training(finished, tmp_path, tell, monkeypatch, method):
    (tmp_path / "models").symlink_to(finished[0] / "models")
    arms = ["--arms", "top", "bottom+kl_weight=1", "--finetune.method", method]
    flags = ["tiny", *FLAGS, *arms, "--out", tmp_path]
    assert tell("run", *flags)[0] == 0 and not list(tmp_path.rglob("*.models"))
    code, _, error = tell("measure", "tiny", "--out", tmp_path)
    assert code == 2 and "top, bottom+kl_weight=1 were not kept" in error and "--keep models --overwrite" in error
    assert "0 of 1 runs" in tell("run", *flags, "--keep", "models")[1]
    expected = results.read_run(directory(tmp_path, 0))
    expected = expected.report, [expected.table(name) for name in (*cell.TABLES, "rates")]
    code, printed, _ = tell("run", *flags, "--keep", "models", "--overwrite")
    assert code == 0 and "kept beside 1 of 1 runs" in printed
    folder = tmp_path / "empirical/tiny/pretrain_0/split_0"
    assert sorted(path.name for path in (folder / "seed_0.models").iterdir()) == ["bottom+kl_weight=1", "top"]

    calls, asked = counted(monkeypatch), measure.arm
    assert tell("measure", "tiny", "--out", tmp_path)[0] == 0 and calls["tune"] == 0
    run = results.read_run(directory(tmp_path, 0))
    assert [run.table(name) for name in (*cell.TABLES, "rates")] == expected[1]
    assert all(run.report[name] == expected[0][name] for name in ("metrics", "choices", "config_hash", "model"))

    def arm(*given, **more):  # another measure
        found = asked(*given, **more)
        return replace(found, metrics=found.metrics | {"length": 7})

    monkeypatch.setattr(measure, "arm", arm)
    assert tell("measure", "tiny", "--out", tmp_path)[0] == 0
    for path in (directory(tmp_path, 0), folder / ".shared/base"):
        metrics = results.read_run(path).report["metrics"]
        assert all(of_arm["length"] == 7 for of_arm in ([metrics] if path.name == "base" else metrics.values()))
    assert tell("run", *flags, "--overwrite")[0] == 0 and not (folder / "seed_0.models").exists()
    assert "no finished runs of small" in tell("measure", "small", "--out", tmp_path)[2]


def test_a_study_gives_one_arms_model_what_another_has(finished, tmp_path, tell, monkeypatch):
    shutil.copytree(finished[0] / "models", tmp_path / "models")
    command = ["run", "tiny", *FLAGS, "--arms", "top", "bottom", *GIVEN, "--mediation.grafts", "query_key", "mlp+norms"]
    asked, fails = Counter(), [True]

    def patched(what, *models):
        asked[what] += 1
        if what == "mlp@end" and fails.pop():
            fails.append(False)
            raise KeyboardInterrupt
        return real(what, *models)

    real = mediation.patched
    monkeypatch.setattr(mediation, "patched", patched)
    assert tell(*command, "--out", tmp_path)[0] == 130 and not directory(tmp_path, 0).exists()
    calls = counted(monkeypatch)
    code, printed, _ = tell(*command, "--out", tmp_path)
    assert code == 0 and asked == {"attention@subject": 1, "mlp@end": 2, "layer@all": 1} and not calls["measure_arm"]
    rows = results.read_run(directory(tmp_path, 0)).table("mediation").to_pylist()
    by_name = {row["intervention"]: row for row in rows}
    given = [*GIVEN[3:], "query_key", "mlp+norms"]
    assert list(by_name) == ["receiver", "donor", *given]
    assert {(row["receiver"], row["donor"]) for row in rows} == {("bottom", "top")}
    kept = results.read_run(directory(tmp_path, 0)).arrays("mediation_by_question")
    assert kept["bottom:top/mlp@end/is_right"].mean() == by_name["mlp@end"]["accuracy"] and len(kept) == 2 * len(
        by_name
    )
    assert by_name["donor"]["logprob_share"] == 1 and by_name["receiver"]["logprob_share"] == 0
    assert "what moves when one arm's model is given something" in printed and all(what in printed for what in given)
    assert not list((tmp_path / "empirical").rglob("weights"))


def test_an_arm_may_have_a_remedy_of_its_own(finished, tmp_path, tell, monkeypatch):
    shutil.copytree(finished[0] / "models", tmp_path / "models")
    arms = ("top", "bottom", "bottom+update_share=0", "bottom+frozen=mlp")
    calls = counted(monkeypatch)
    code, printed, _ = tell("run", "tiny", *FLAGS, "--arms", *arms, "--out", tmp_path)
    assert code == 0 and "remedies" in printed and "update_share=0" in printed
    metrics = results.read_run(directory(tmp_path, 0)).report["metrics"]
    assert list(metrics) == ["base", *arms] and metrics["bottom"] != metrics["bottom+frozen=mlp"]
    choices = results.read_run(directory(tmp_path, 0)).report["choices"]
    assert choices["bottom+frozen=mlp"] == choices["bottom"] and calls["tune"] == 2 * 2 + 2
    assert metrics["bottom+update_share=0"]["accuracy"] == metrics["base"]["accuracy"]
    code, _, said = tell("run", "tiny", *FLAGS, "--arms", "bottom+hat=1", "--out", tmp_path)
    assert code == 2 and "is no remedy" in said
