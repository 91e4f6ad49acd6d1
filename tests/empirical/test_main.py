import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from empirical import __main__ as command
from empirical import commands, model_commands
from empirical.lm import prompts

N = 40
ASKED = "--knownness.measure logprob --knownness.shots 1 --knownness.n-prompts 1 --evaluate.max-new-tokens 2".split()
ROUNDED = ("answer_logprob", "answer_logprob_without_end", "predicted_probability")
QUICK = "--finetune.train.epochs 1 --finetune.learning-rates 1e-3 --split.held-out 0.4 --split.dev 0.1".split()


@pytest.fixture
def model_folder(llama, words, tmp_path):
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _table(path: Path, header: str = "question,answer,subject,relation") -> Path:
    rows = [f"What is the job of Ann{i}?,baker{i % 5},Ann{i},job" for i in range(N)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def _on(model: Path, table: Path, out: Path) -> list[str]:
    return ["--model.name", str(model), "--facts.source", "table", "--facts.path", str(table), "--out", str(out)]


def test_the_studies_are_listed(capsys):
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*commands.STUDIES, "screen"))


def test_a_dry_run_prints_config_and_runs_and_writes_nothing(capsys, tmp_path):
    assert command.main(["run", "tiny", "--dry-run", "--seeds", "2", "--out", str(tmp_path / "out")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in printed["runs"]] == [0, 1] and printed["config"]["arms"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--finetune.train.epochs", "0"], "--finetune.train.epochs"),
        (["--knownness.batch-tokens", "0"], "--knownness.batch-tokens"),
        (["--evaluate.batch-tokens", "0"], "--evaluate.batch-tokens"),
        (["--finetune.train.micro-batch-tokens", "0"], "--finetune.train.micro-batch-tokens"),
        (["--arms", "best"], "--arms best"),
        (["--facts.path", "questions.csv"], "--facts.path is of no use"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would_refuse(flags, said, capsys):
    assert command.main(["run", "tiny", "--dry-run", *flags]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.out == ""


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("llama-2-7b-popqa", ("weights from the hub", "once for each of 4 rates")),
        (
            "smollm2-135m-popqa",
            ("98 MB, Apache-2.0", "empirical weights smollm2-135m", "once a seed"),
        ),
    ],
)
def test_a_published_models_study_says_what_it_needs(capsys, study, said):
    assert command.main(["run", study, "--dry-run", "--facts.path", "popqa.tsv"]) == 0
    printed = " ".join(json.loads(capsys.readouterr().out)["needs"])
    assert all(text in printed for text in said)


def test_a_misspelt_flag_is_corrected(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["run", "tiny", "--finetune.learning-rate", "1e-3"])
    assert ended.value.code == 2
    assert "--finetune.learning-rates" in capsys.readouterr().err


def test_interruption_ends_with_130_and_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.List, "__call__", interrupted)
    assert command.main(["list"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_models_stages_run_one_by_one(model_folder, tmp_path, capsys):
    table, out = _table(tmp_path / "questions.csv"), tmp_path / "out"
    assert command.main(["score", *_on(model_folder, table, out), *ASKED]) == 0
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert len(scores) == N and all(row["knownness"] < 0 for row in scores)
    reached = json.loads(pq.read_schema(out / "scores.parquet").metadata[b"throughput"])
    assert reached["facts"] == N and reached["tokens"] > 10 * N and reached["peak_bytes"] > 1e7
    assert "scoring:" in (told := capsys.readouterr().err) and "facts/s" in told
    assert all(row["subject"] and row["subject"] in row["question"] and row["relation"] for row in scores)
    by_knownness = sorted(scores, key=lambda row: row["knownness"])
    assert [row["percentile"] for row in by_knownness] == sorted(row["percentile"] for row in scores)
    assert 0 < min(row["percentile"] for row in scores) and by_knownness[-1]["percentile"] <= 1
    top, bottom = ([row["knownness"] for row in scores if row[arm]] for arm in ("top", "bottom"))
    assert top and min(top) >= max(bottom)
    for method in ("full", "lora"):
        place = tmp_path / method
        tuned = [*_on(model_folder, table, place), *ASKED, *QUICK, "--finetune.method", method]
        assert command.main(["finetune", "--arm", "bottom", *tuned]) == 0
        assert (place / "bottom" / ("adapter_config.json" if method == "lora" else "config.json")).exists()
        assert command.main(["evaluate", *_on(place / "bottom", table, place), *ASKED]) == 0
        answers = pq.read_table(place / "answers.parquet").to_pylist()
        reached = json.loads(pq.read_schema(place / "answers.parquet").metadata[b"throughput"])
        assert reached["facts"] == len(answers) and reached["flops"] > 0
        assert json.loads((place / "bottom" / "throughput.json").read_text())["facts_per_second"] > 0
        held_out = {row["question"] for row in scores if row["role"] == "held_out"}
        assert {row["question"] for row in answers} == held_out
        assert command.main(["attention", *_on(place / "bottom", table, place), *ASKED]) == 0
        rows = pq.read_table(place / "attention.parquet").to_pylist()
        assert len(rows) == 2 * 4 * 2 * 4  # layers, heads, positions, spans
        assert all(row["value_weighted_low"] < row["value_weighted"] != row["mean"] for row in rows if row["mean"])
        assert "value-weighted" in capsys.readouterr().out
        assert command.main(["finetune", "--arm", "bottom", *tuned]) == 2  # never over what is there
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("measure", [["popularity"], ["logprob", "--knownness.shots", "0"]])
@pytest.mark.parametrize(("n", "n_subjects"), [(1, 1), (2, 2), (5, 1)])
def test_a_table_too_small_to_split_is_scored_where_no_examples_are_needed(
    n, n_subjects, measure, model_folder, tmp_path, capsys
):
    table, out = tmp_path / "questions.csv", tmp_path / "out"
    rows = [f"What is job {i} of Ann{i % n_subjects}?,baker,Ann{i % n_subjects},job,{i + 1}" for i in range(n)]
    table.write_text("\n".join(["question,answer,subject,relation,popularity", *rows]) + "\n", encoding="utf-8")
    flags = [*_on(model_folder, table, out), "--knownness.n-prompts", "1", "--knownness.measure", *measure]
    assert command.main(["score", *flags]) == 0
    assert "role and arms are left empty" in capsys.readouterr().out
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert len(scores) == n and {row["role"] for row in scores} == {row["top"] for row in scores} == {None}
    known = [row["knownness"] for row in scores]
    assert known == list(range(1, n + 1)) if measure == ["popularity"] else max(known) < 0
    with_examples = [*_on(model_folder, table, out), "--knownness.measure", "logprob", "--overwrite"]
    assert command.main(["score", *with_examples]) == 2
    assert "give more facts" in capsys.readouterr().err


def test_every_stage_asks_a_chat_model_in_turns(model_folder, tmp_path, monkeypatch, capsys):
    table, out = _table(tmp_path / "questions.csv"), tmp_path / "out"
    flags = [*_on(model_folder, table, out), *ASKED, "--model.chat"]
    assert command.main(["score", *flags]) == 2
    assert "--model.chat: the tokenizer of" in capsys.readouterr().err
    template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + eos_token }}{% endfor %}[assistant]"
    (model_folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    encode, seen = prompts.encode, []

    def encoded(words, built, **more):
        seen.extend(built)
        return encode(words, built, **more)

    monkeypatch.setattr(prompts, "encode", encoded)
    tuned = _on(tmp_path / "tuned" / "top", table, out)
    for stage in (
        ["score", *flags],
        ["finetune", *flags, *QUICK, "--finetune.method", "lora", "--out", str(tmp_path / "tuned")],
        ["evaluate", *tuned, *ASKED, "--model.chat"],
        ["attention", *tuned, *ASKED, "--model.chat"],
    ):
        seen.clear()
        assert command.main(stage) == 0
        assert seen and all(one.text.startswith("[user]") and one.text.endswith("?</s>[assistant]") for one in seen)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_single_stage_trains_in_the_precision_of_a_study_and_measures_in_half_where_that_is_mixed(
    method, model_folder, tmp_path, monkeypatch
):
    table, trained, read = _table(tmp_path / "questions.csv"), [], []
    tune, answer = model_commands.study.tune, model_commands.evaluate.answer
    resolve = model_commands.models.resolved

    def on_a_gpu(precision, *, trains_all):
        return resolve(precision, trains_all=trains_all) if precision != "auto" or not trains_all else "mixed"

    def tuned(config, base_model, *given, **more):
        model = base_model.load()
        trained.append((model.is_mixed, model.network.dtype))
        return tune(config, base_model, *given, **more)

    def answered(config, model, *given, **more):
        read.append(model.network.dtype)
        return answer(config, model, *given, **more)

    monkeypatch.setattr(model_commands.models, "resolved", on_a_gpu)
    monkeypatch.setattr(model_commands.study, "tune", tuned)
    flags = [*_on(model_folder, table, tmp_path / "out"), *ASKED]
    assert command.main(["finetune", *flags, *QUICK, "--finetune.method", method]) == 0
    assert trained == [(method == "full", torch.float32)]
    monkeypatch.setattr(model_commands.evaluate, "answer", answered)
    for precision in ("float32", "mixed"):
        assert command.main(["evaluate", *flags, "--model.precision", precision, "--overwrite"]) == 0
    assert read == [torch.float32, torch.bfloat16]


def test_a_subject_that_its_question_does_not_name_is_counted_named_and_kept(model_folder, tmp_path, capsys):
    table = _table(tmp_path / "questions.csv")
    table.write_text(table.read_text().replace("Ann7?,", "her?,", 1))
    assert command.main(["score", *_on(model_folder, table, tmp_path / "out"), *ASKED]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 facts do not name their subject" in printed and "Ann7" in printed
    assert pq.read_table(tmp_path / "out" / "scores.parquet").num_rows == N


def test_all_questions_are_answered_on_request_and_with_their_own_seed_others_are_held_out(model_folder, tmp_path):
    table = _table(tmp_path / "questions.csv")

    def answered(*more):
        flags = [*_on(model_folder, table, tmp_path / "out"), *ASKED, "--overwrite", *more]
        assert command.main(["evaluate", *flags]) == 0
        rows = pq.read_table(tmp_path / "out" / "answers.parquet")
        assert rows.schema.names == [
            *("id", "subject", "relation", "popularity", "question", "answers", "is_trained", "predicted"),
            *("exact_match", "strict_match", "squad_match", "substring_match", "token_f1", "answer_logprob"),
            *("answer_logprob_without_end", "predicted_probability"),
        ]
        return {row["id"]: row for row in rows.to_pylist()}

    everything, held_out, others = answered("--which", "all"), answered(), answered("--split-seed", "1")
    assert len(everything) == N and len(held_out) == len(others) == 0.4 * N and set(held_out) != set(others)
    for name, row in held_out.items():
        assert row["subject"] in row["question"] and row["answers"] and not row["is_trained"]
        # Answers do not depend on what is asked beside; log-probabilities are rounded by the batch's shapes.
        assert row | dict.fromkeys(ROUNDED) == everything[name] | dict.fromkeys(ROUNDED)
        for column in ROUNDED:
            assert row[column] == pytest.approx(everything[name][column], rel=1e-4)


@pytest.fixture
def finetuned(model_folder, tmp_path) -> tuple[Path, Path]:
    """Return a model finetuned on the top half of a table, and the table."""
    folder = tmp_path / "finetuned"
    folder.mkdir()
    table = _table(folder / "questions.csv")
    flags = [*_on(model_folder, table, folder), *ASKED, *QUICK, "--finetune.method", "lora"]
    assert command.main(["finetune", *flags]) == 0
    return folder / "top", table


EDITS: dict[str, Callable[[list[str]], list[str]]] = {
    "a row less": lambda rows: [rows[0], *rows[2:]],
    "a subject renamed": lambda rows: [*rows[:3], rows[3].replace("Ann", "Bea"), *rows[4:]],
    "one more that sorts early": lambda rows: [rows[0], "What does Aaron do?,baker,Aaron,job", *rows[1:]],
    "in another order": lambda rows: [rows[0], *reversed(rows[1:])],
}


def test_whatever_becomes_of_the_table_a_finetuned_model_is_asked_nothing_that_it_was_trained_on(
    finetuned, tmp_path, capsys
):
    folder, before = finetuned
    rows = pq.read_table(folder / "questions.parquet").to_pylist()
    then = {row["question"] for row in rows if row["role"] == "held_out"}
    table = tmp_path / "questions.csv"
    for edit in EDITS.values():
        table.write_text("\n".join(edit(before.read_text().splitlines())) + "\n")
        there = {line.split(",")[0] for line in table.read_text().splitlines()}
        for seed in ("0", "1"):
            flags = [*_on(folder, table, tmp_path), *ASKED, "--split-seed", seed, "--overwrite"]
            assert command.main(["evaluate", *flags]) == 0
            asked = {row["question"] for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()}
            assert asked == then & there and len(asked) >= len(then) - 1 > 0
            assert not asked & {row["question"] for row in rows if row["in_arm"]}
            is_told = "questions that were held out are not among these" in capsys.readouterr().out
            assert is_told == bool(then - there)


def test_of_all_questions_it_is_said_how_many_the_model_was_trained_on(finetuned, tmp_path, capsys):
    folder, table = finetuned
    assert command.main(["evaluate", *_on(folder, table, tmp_path), *ASKED, "--which", "all"]) == 0
    taught = sum(row["in_arm"] for row in pq.read_table(folder / "questions.parquet").to_pylist())
    assert 0 < taught < N and f"finetuned on {taught} of them" in " ".join(capsys.readouterr().out.split())
    assert sum(row["is_trained"] for row in pq.read_table(tmp_path / "answers.parquet").to_pylist()) == taught


def test_a_model_finetuned_twice_remembers_both_and_questions_of_neither_are_refused(finetuned, tmp_path, capsys):
    folder, table = finetuned
    flags = [*_on(folder, table, tmp_path), *ASKED, *QUICK, "--finetune.method", "full", "--split-seed", "1"]
    assert command.main(["finetune", *flags, "--arm", "random"]) == 0
    assert "held out now: they will not be asked" in " ".join(capsys.readouterr().out.split())
    # All weights are saved, the adapter's among them.
    assert (tmp_path / "random/config.json").exists() and not (tmp_path / "random/adapter_config.json").exists()
    assert command.main(["score", *_on(folder, table, tmp_path), *ASKED, "--finetune.method", "lora"]) == 0
    first, second = (pq.read_table(at / "questions.parquet").to_pylist() for at in (folder, tmp_path / "random"))
    taught = {row["question"] for row in first if row["in_arm"]}
    assert taught < {row["question"] for row in second if row["in_arm"]}
    assert not taught & {row["question"] for row in second if row["role"] == "held_out"}
    other = _table(tmp_path / "other.csv")
    other.write_text(other.read_text().replace("Ann", "Zoe"))
    assert command.main(["evaluate", *_on(folder, other, tmp_path), *ASKED]) == 2
    assert "held out when" in capsys.readouterr().err and not (tmp_path / "answers.parquet").exists()


def test_a_result_of_other_settings_is_not_written_over_unless_asked_for(model_folder, tmp_path, capsys):
    table = _table(tmp_path / "questions.csv")
    flags = ["evaluate", *_on(model_folder, table, tmp_path / "out"), *ASKED]
    assert command.main(flags) == command.main(flags) == 0
    written = (tmp_path / "out" / "answers.parquet").read_bytes()
    assert command.main([*flags, "--split-seed", "1"]) == 2
    assert "of other settings, questions or weights" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out" / "answers.parquet").read_bytes() == written
    assert command.main([*flags, "--split-seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "out" / "answers.parquet").read_bytes() != written


def test_an_arm_that_is_there_already_is_refused_before_the_model_is_asked_anything(
    model_folder, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out" / "top").mkdir(parents=True)
    monkeypatch.setattr(model_commands.study, "questions", lambda *given, **more: pytest.fail("asked"))
    table = _table(tmp_path / "questions.csv")
    assert command.main(["finetune", *_on(model_folder, table, tmp_path / "out"), *ASKED, *QUICK]) == 2
    assert "is there already" in capsys.readouterr().err


def test_an_arm_that_there_is_not_is_refused(model_folder, tmp_path, capsys):
    table = _table(tmp_path / "questions.csv")
    flags = [*_on(model_folder, table, tmp_path / "out"), *ASKED, *QUICK]
    assert command.main(["finetune", "--arm", "middle", *flags]) == 2
    assert "--arm is 'middle': it must be one of top, bottom, whole, random" in capsys.readouterr().err


def test_a_model_is_pretrained_and_found_again_by_its_settings(tmp_path, capsys):
    flags = (
        "--world.n-subjects 30 --world.n-answers 5 --world.exposure.high 2 --pretrain.d-model 16 --pretrain.layers 1 "
        "--pretrain.heads 2 --pretrain.key-value-heads 1 --pretrain.vocabulary 400 --pretrain.n-probes 2 "
        "--pretrain.batch-size 8"
    ).split()

    def pretrain():
        assert command.main(["pretrain", *flags, "--seed", "3", "--out", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "facts recalled" in printed and "fifth 5" in printed
        return Path(printed.splitlines()[-1])

    place = pretrain()
    assert place.parent == tmp_path / "models" and place.name.startswith("seed3-")
    written = (place / "model.safetensors").stat().st_mtime_ns
    assert pretrain() == place and (place / "model.safetensors").stat().st_mtime_ns == written
    probes = json.loads((place / "pretraining.json").read_text())["recall"]
    assert len(probes) == 2 and all(len(probe["recall"]) == 5 for probe in probes)


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no column of questions": (
        lambda at: _table(at, "frage,answer,subject,relation"),
        "q.csv",
        "no column for the question",
    ),
    "not UTF-8": (lambda at: at.write_bytes(b"question,answer\nWer?,M\xfcller\n"), "q.csv", "line 2: not UTF-8"),
    "malformed JSON": (
        lambda at: at.write_text('{"question": "a", "answer": "b"}\n{"question"\n'),
        "q.jsonl",
        "line 2: malformed JSON",
    ),
    "no column of answers": (
        lambda at: at.write_text("question,reply\nWho?,Bo\n"),
        "q.csv",
        "no column for the answers",
    ),
    "no answers": (lambda at: at.write_text("question,answer\nWho?,\n"), "q.csv", "no usable row"),
    "a truncated row": (lambda at: at.write_text("question\tanswer\nWho?\tBo\nWhere?"), "q.tsv", "line 3"),
    "too few questions": (lambda at: at.write_text("question,answer\nWho?,Bo\nWhere?,Ulm\n"), "q.csv", "--split"),
    "no file": (lambda at: None, "q.csv", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_table_is_one_clear_error_and_leaves_nothing(kind, model_folder, tmp_path, capsys):
    write, name, expected = BAD[kind]
    write(tmp_path / name)
    assert command.main(["score", *_on(model_folder, tmp_path / name, tmp_path / "out"), *ASKED]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[0].startswith("error: ") and expected in " ".join(told) and len(told) <= 3
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_five_choices_are_refused(model_folder, tmp_path, capsys):
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    (tmp_path / "mmlu" / "test" / "world_history_test.csv").write_text("When?,1,2,3,4,5,A\n")
    flags = ["--model.name", str(model_folder), "--facts.source", "mmlu", "--facts.part", "test"]
    assert command.main(["score", *flags, "--facts.path", str(tmp_path / "mmlu"), "--out", str(tmp_path / "o")]) == 2
    assert "line 1: 7 cells" in capsys.readouterr().err


def _adapter(folder: Path, llama, base: Path) -> Path:
    """Return the folder of an adapter on this model that names another as its base."""
    get_peft_model(llama, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(folder))
    settings = folder / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": str(base)}))
    return folder


def _wider(folder: Path, llama, words) -> Path:
    """Return the folder of a model twice as wide."""
    sizes = llama.config.to_dict() | {"hidden_size": 64, "head_dim": 16}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _slow(folder: Path) -> Path:
    """Return the folder, its tokenizer one of Python alone."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return folder


NO_MODEL = {
    "no checkpoint": "no checkpoint",
    "no folder": "no such folder",
    "an adapter whose base is gone": "no such folder",
    "an adapter of another base": "does not fit its base",
    "a slow tokenizer": "is not fast",
}


@pytest.mark.parametrize("stage", ["score", "finetune", "evaluate", "attention"])
@pytest.mark.parametrize("kind", NO_MODEL)
def test_a_model_that_will_not_do_is_refused_by_every_stage_and_leaves_nothing(
    kind, stage, model_folder, llama, words, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    place = {
        "no checkpoint": lambda: tmp_path / "empty",
        "no folder": lambda: tmp_path / "nowhere",
        "an adapter whose base is gone": lambda: _adapter(tmp_path / "adapter", llama, tmp_path / "gone"),
        "an adapter of another base": lambda: _adapter(
            tmp_path / "adapter", llama, _wider(tmp_path / "wide", llama, words)
        ),
        "a slow tokenizer": lambda: _slow(model_folder),
    }[kind]()
    capsys.readouterr()
    table = _table(tmp_path / "questions.csv")
    assert command.main([stage, *_on(place, table, tmp_path / "out"), *ASKED]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[0].startswith("error: ") and NO_MODEL[kind] in " ".join(told) and len(told) <= 3
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_questions_that_name_no_subject_have_no_attention_to_measure(model_folder, tmp_path, capsys):
    rows = [f"Who is it for the {i}th time?,Bo{i % 5}" for i in range(N)]
    (tmp_path / "q.csv").write_text("\n".join(["question,answer", *rows]))
    asked = [*_on(model_folder, tmp_path / "q.csv", tmp_path / "out"), *ASKED]
    assert command.main(["attention", *asked]) == 2
    assert "no held-out question names its subject" in capsys.readouterr().err
    assert not (tmp_path / "out" / "attention.parquet").exists()
    assert command.main(["evaluate", *asked]) == 0  # that needs none


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "tiny", "--seeds", "0"], "--seeds is 0"),
        (["run", "tiny", "--seed", "-1"], "--seed is -1"),
        (["run", "tiny-popqa"], "--facts.path"),
        (["run", "tiny", "--split.held-out", "0"], "--split.held-out"),
        (["run", "tiny", "--model.name", "some/model"], "synthetic world"),
        (["run", "tiny", "--split-seeds", "-3"], "--split-seeds is -3"),
        (["run", "mistral-7b-popqa", "--facts.path", "x", "--pretrain-seeds", "2"], "--pretrain-seeds"),
        (["run", "tiny-mmlu", "--facts.path", "nowhere"], "--facts.path"),
        (["run", "tiny-popqa", "--facts.path", "nowhere.tsv"], "nowhere.tsv"),
        (["score"], "--model.name"),
        (["finetune"], "--model.name"),
        (["finetune", "--arm", "middle"], "--arm is 'middle'"),
        (["compare", "--out", "nowhere"], "no finished runs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert expected in " ".join(told) and len(told) <= 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    ["run tiny", "run screen", "measure tiny", "pretrain", "knockout", "patch", "graft", "heads"],
)
def test_one_of_several_processes_is_refused_before_anything_is_read(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main([*name.split(), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "WORLD_SIZE is 2" in said and "processes on one study and --out divide it" in " ".join(said.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("n", ["1", "", "many"])
def test_a_process_by_itself_and_a_command_that_runs_no_model_are_not_refused(n, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", n)
    command.check_alone()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main(["list"]) == 0
