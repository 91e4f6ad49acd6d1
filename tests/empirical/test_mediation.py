from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from core import shares
from core.errors import InputError
from core.facts.record import Fact
from core.split import HELD_OUT, TRAIN
from empirical import __main__ as command
from empirical import heads, mediation, taught
from empirical.evaluate import EvaluateConfig
from empirical.lm.model import LanguageModel
from empirical.mediation import Asked

N = 40
CONFIG = EvaluateConfig(batch_size=7)


def other(llama, seed):
    """Return a model of the same shape whose weights are drawn anew."""
    made, draw = type(llama)(llama.config).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
    return made


@pytest.fixture
def pair(llama, words):
    return LanguageModel(other(llama, 1), words, "one"), LanguageModel(other(llama, 2), words, "two")


@pytest.fixture
def asked(pair, tiny_world):
    return pair[0].format.ask(tiny_world.fact_set().facts[:20])


def test_an_outcome_stands_in_the_questions_order_however_they_are_read(pair, asked):
    one, alone = (mediation.plain(pair[0], Asked(EvaluateConfig(batch_size=size), asked)) for size in (7, 1))
    np.testing.assert_allclose(one.logprob, alone.logprob, atol=1e-4)
    assert np.array_equal(one.is_right, alone.is_right)


def test_all_of_the_donor_moves_all_of_the_gap(pair, asked):
    own, theirs = (mediation.plain(model, Asked(CONFIG, asked)) for model in pair)
    receiver, donor = pair
    everything = mediation.grafted("query_key+value_output+mlp+norms+embeddings", receiver, donor, Asked(CONFIG, asked))
    nothing = mediation.grafted("mlp", receiver, donor, Asked(CONFIG, asked), share=0.0)
    found = {"receiver": own, "donor": theirs, "all": everything, "none": nothing}
    columns = shares.table(found, np.arange(20), seed=0)
    assert list(columns["intervention"]) == ["receiver", "donor", "all", "none"]
    np.testing.assert_allclose(columns["logprob_share"], [0, 1, 1, 0], atol=1e-12)


def test_windows_hold_every_layer_once():
    assert mediation.windows(7, 3) == [(0, 1, 2), (3, 4), (5, 6)]
    assert [mediation.named(layers) for layers in mediation.windows(3, 2)] == ["0-1", "2"]
    with pytest.raises(InputError, match="--windows is 3: it must be 1 to 2"):
        mediation.windows(2, 3)


def test_another_tokenizer_is_refused(pair, tmp_path):
    pair[1].tokenizer.save_pretrained(tmp_path)
    words = type(pair[1].tokenizer).from_pretrained(tmp_path)
    words.add_tokens(["<new>"])
    with pytest.raises(InputError, match="different tokenizers"):
        mediation.check(pair[0], LanguageModel(pair[1].network, words, "two"))


@pytest.fixture
def folders(pair, tmp_path):
    places = []
    for model in pair:
        place = tmp_path / model.name
        model.network.save_pretrained(place)
        model.tokenizer.save_pretrained(place)
        places.append(str(place))
    return places


def _flags(folders: list[str], out: Path) -> list[str]:
    table = out.with_suffix(".csv")
    rows = [f"What is the job of Ann{i}?,baker{i % 5},Ann{i},job" for i in range(N)]
    table.write_text("\n".join(["question,answer,subject,relation", *rows]) + "\n", encoding="utf-8")
    return ["--model.name", folders[0], "--facts.source", "table", "--facts.path", str(table), "--out", str(out)]


def test_patching_and_grafting_are_commands(folders, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [*_flags(folders, out), "--donor", folders[1]]
    what = ["--what", "attention@subject+mlp@end", "layer@all", "--windows", "2"]
    assert command.main(["patch", *flags, *what]) == 0
    rows = {row["intervention"]: row for row in pq.read_table(out / "patch.parquet").to_pylist()}
    assert list(rows) == [
        *("receiver", "donor", "attention@subject+mlp@end", "layer@all"),
        *("attention@subject:0+mlp@end:0", "layer@all:0", "attention@subject:1+mlp@end:1", "layer@all:1"),
    ]
    assert rows["receiver"]["logprob_share"] == 0 and rows["donor"]["logprob_share"] == 1
    assert rows["layer@all"]["logprob"] == rows["layer@all:1"]["logprob"] != rows["layer@all:0"]["logprob"]
    assert command.main(["graft", *flags, "--what", "query_key", "mlp+norms", "--layers", "0"]) == 0
    rows = pq.read_table(out / "graft.parquet").to_pylist()
    assert [row["intervention"] for row in rows] == ["receiver", "donor", "query_key", "mlp+norms"]
    assert not list(out.glob(".*.work")) and "share of the gap" in capsys.readouterr().out


def test_knockout_is_a_command(folders, tmp_path):
    out = tmp_path / "out"
    assert command.main(["knockout", *_flags(folders, out), "--windows", "2"]) == 0
    rows = pq.read_table(out / "knockout.parquet").to_pylist()
    assert [row["layers"] for row in rows] == ["0-1", "0", "1"] and all(row["drop"] != 0 for row in rows)


def _finetuned(folders: list[str], flags: list[str]) -> None:
    """Let the first model say that it was finetuned on half of the questions."""
    table = Path(flags[flags.index("--facts.path") + 1])
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    facts = [Fact(str(i), subject, job, question, (answer,)) for i, (question, answer, subject, job) in enumerate(rows)]
    role = np.where(np.arange(N) < N // 2, TRAIN, HELD_OUT)
    taught.write(Path(folders[0]), facts, role, np.arange(N // 2), earlier=None)


def test_the_heads_that_are_picked_and_those_that_matter_are_a_command(folders, tmp_path, capsys):
    flags = [*_flags(folders, tmp_path / "out"), "--donor", folders[1]]
    assert command.main(["heads", *flags]) == 2 and "with --base" in " ".join(capsys.readouterr().err.split())
    flags += ["--base", folders[1]]
    assert command.main(["heads", *flags]) == 2 and "what it was finetuned on" in " ".join(
        capsys.readouterr().err.split()
    )
    _finetuned(folders, flags)
    assert command.main(["heads", *flags, "--evaluate.batch-size", "7"]) == 0
    rows = pq.read_table(tmp_path / "out" / "heads.parquet").to_pylist()
    assert [(row["layer"], row["head"]) for row in rows] == [(layer, head) for layer in range(2) for head in range(4)]
    for name in ("predicted", "effect"):
        assert all(row[f"{name}_low"] < row[name] < row[f"{name}_high"] for row in rows)
    printed = " ".join(capsys.readouterr().out.split())
    assert "rank correlation of force and gain over heads" in printed and "20 training facts, 20 held-out" in printed


def test_heads_that_are_ordered_alike_agree_whatever_is_drawn_and_others_do_not():
    rng, cluster = np.random.default_rng(0), (np.arange(30) // 2, np.arange(20))
    order = np.arange(12.0).reshape(3, 4)
    predicted, effect = (order + 0.01 * rng.normal(size=(n, 3, 4)) for n in (30, 20))
    assert heads.agreement(predicted, effect**3, cluster, seed=0) == pytest.approx((1, 1, 1))
    assert heads.agreement(predicted, -effect, cluster, seed=0).high == pytest.approx(-1)
    noise = heads.agreement(predicted, rng.normal(size=(20, 3, 4)), cluster, seed=0)
    assert noise.low < noise.mean < noise.high and noise.high - noise.low > 0.3


def test_what_is_done_is_not_done_again(folders, tmp_path, monkeypatch):
    out, patched, calls = tmp_path / "out", mediation.patched, []
    flags = ["patch", *_flags(folders, out), "--donor", folders[1], "--what", "mlp@end", "layer@end"]

    def fails(*args, **options):
        calls.append(args[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return patched(*args, **options)

    monkeypatch.setattr(mediation, "patched", fails)
    assert command.main(flags) == 130 and not (out / "patch.parquet").exists()
    assert command.main(flags) == 0 and calls == ["mlp@end", "layer@end", "layer@end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("patch",), "with --donor"),
        (("patch", "--donor", "DONOR", "--what", "look@subject"), "names no patch"),
        (("patch", "--donor", "DONOR", "--what", "mlp@end:5"), "no layer 5"),
        (("patch", "--donor", "DONOR", "--what", "mlp@end:0", "--windows", "2"), "names its layers already"),
        (("patch", "--donor", "DONOR", "--windows", "3"), "--windows is 3"),
        (("graft", "--donor", "DONOR", "--what", "heads"), "there is no part 'heads'"),
        (("graft", "--donor", "DONOR", "--layers", "x"), "names no numbers"),
        (("graft", "--donor", "/nowhere/at/all"), "no such folder"),
        (("knockout", "--windows", "9"), "--windows is 9"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(arguments, message, folders, tmp_path, capsys):
    out = tmp_path / "out"
    name, *more = (folders[1] if argument == "DONOR" else argument for argument in arguments)
    assert command.main([name, *_flags(folders, out), *more]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
    assert not list(out.glob("*.parquet"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mediation.pairs", "bottom"), "must be RECEIVER:DONOR"),
        (("--mediation.pairs", "bottom:bottom"), "must be RECEIVER:DONOR"),
        (("--mediation.pairs", "bottom:rare"), "two of the study's arms: top, bottom"),
        (("--mediation.patches", "look@subject"), "names no patch"),
        (("--mediation.grafts", "mlp+hat"), "no part 'hat'"),
        (("--mediation.windows", "0"), "--mediation.windows is 0"),
    ],
)
def test_a_study_refuses_what_cannot_be_given(flags, message, capsys):
    assert command.main(["run", "tiny", *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
