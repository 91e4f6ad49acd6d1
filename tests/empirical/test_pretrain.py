import errno
import fcntl
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import InputError
from core.facts.record import Fact, FactSet
from empirical import pretrain
from empirical.lm import completion
from empirical.pretrain import PretrainConfig
from empirical.worlds import world
from empirical.worlds.world import Exposure, WorldConfig

WORLD = WorldConfig(
    n_subjects=30, n_relations=2, facts_per_subject=1, n_answers=4, exposure=Exposure(low=0.5, high=99.0)
)
SMALL = PretrainConfig(
    d_model=16, layers=1, heads=2, key_value_heads=1, vocabulary=400, batch_size=16, checkpoint_every=7, n_probes=3
)


def _run(out, config=SMALL, seed=0, progress=lambda doing, share: None):
    return pretrain.run(config, WORLD, None, out, seed=seed, progress=progress)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("models"))


def _weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_folder_is_an_ordinary_checkpoint_with_its_tokenizer(made):
    model, words = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    assert type(model).__name__ == "LlamaForCausalLM" and model.config.tie_word_embeddings
    assert model.config.vocab_size == len(words) and words.pad_token_id == model.config.pad_token_id
    assert words.decode(words("Any text – whatever.")["input_ids"][1:]) == "Any text – whatever."


def test_recall_is_recorded_by_fifth_as_it_grows(made):
    record = json.loads((made / "pretraining.json").read_text())
    assert len(record["recall"]) == 3 and all(len(probe["recall"]) == 5 for probe in record["recall"])
    steps = pretrain.n_steps(SMALL, world.build(WORLD, seed=0))
    assert [probe["step"] for probe in record["recall"]][-1] == steps
    model, words = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    facts = world.build(WORLD, seed=0).fact_set().facts
    best = sorted(facts, key=lambda fact: -(fact.popularity or 0))[:6]
    again = completion.recall(model, words, best, n_paraphrases=WORLD.paraphrases) >= 0.5
    assert record["recall"][-1]["recall"][0] == pytest.approx(again.mean())


def test_a_model_that_is_there_is_not_trained_again(made, monkeypatch):
    monkeypatch.setattr(pretrain, "_train", lambda *given, **more: pytest.fail("trained"))
    assert _run(made.parent.parent) == made


def test_other_settings_worlds_or_seeds_have_folders_of_their_own(tmp_path):
    folders = {
        pretrain.folder(SMALL, WORLD, None, tmp_path, seed=0),
        pretrain.folder(SMALL, WORLD, None, tmp_path, seed=1),
        pretrain.folder(replace(SMALL, d_model=32), WORLD, None, tmp_path, seed=0),
        pretrain.folder(SMALL, replace(WORLD, answer_skew=2.0), None, tmp_path, seed=0),
        pretrain.folder(SMALL, WORLD, world.build(WORLD, seed=0).fact_set(), tmp_path, seed=0),
    }
    assert len(folders) == 5


def test_an_interrupted_pretraining_ends_with_the_same_weights_bit_for_bit(made, tmp_path):
    told = []

    def stop(doing, share):
        told.append(share)
        if len(told) in (2, 5):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, progress=stop)
        assert not [path for path in (tmp_path / "models").iterdir() if not path.name.startswith(".")]
    folder = _run(tmp_path, progress=stop)
    assert told[2] > 0.1  # it went on, and did not begin anew
    expected, found = _weights(made), _weights(folder)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (
        json.loads((folder / "pretraining.json").read_text())["recall"]
        == json.loads((made / "pretraining.json").read_text())["recall"]
    )


@pytest.mark.parametrize("stage", ["_write_facts", "provenance.environment"])
def test_an_interruption_while_the_folder_is_written_leaves_none_and_changes_nothing(
    stage, made, tmp_path, monkeypatch
):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"empirical.pretrain.{stage}", stop)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path)
    assert not pretrain.folder(SMALL, WORLD, None, tmp_path, seed=0).exists()
    monkeypatch.undo()
    expected, found = _weights(made), _weights(_run(tmp_path))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not list((tmp_path / "models").glob(".*.partial"))


def test_a_sources_facts_are_told_and_written_beside_the_model(tmp_path):
    rows = [(f"Ann {i}", "job", f"a{i % 2}") for i in range(10)]
    given = FactSet(tuple(Fact(n, n, r, f"What of {n}?", (a,), float(i + 1)) for i, (n, r, a) in enumerate(rows)))
    folder = pretrain.run(replace(SMALL, epochs=0.1), WORLD, given, tmp_path, seed=0)
    table = pq.read_table(folder / "facts.parquet").to_pylist()
    assert [(row["subject"], row["relation"], row["answer"]) for row in table] == rows
    assert pretrain.folder(replace(SMALL, epochs=0.1), WORLD, given, tmp_path, seed=0) == folder
    other = FactSet(given.facts[::-1])
    assert pretrain.folder(replace(SMALL, epochs=0.1), WORLD, other, tmp_path, seed=0) != folder


def test_fifths_are_of_the_best_known_first():
    found = [rows.tolist() for rows in pretrain.fifths(np.array([1.0, 9.0, 5.0, 7.0, 3.0, 2.0]))]
    assert found == [[1, 3], [2], [4], [5], [0]]
    assert [rows.tolist() for rows in pretrain.fifths(np.array([1.0, 9.0]))] == [[1], [0]]


def test_another_seed_has_other_weights(made, tmp_path):
    other = _weights(_run(tmp_path, seed=1))
    assert not all(torch.equal(other[name], value) for name, value in _weights(made).items() if name in other)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"d_model": 0}, "--pretrain.d-model"),
        ({"heads": 3}, "heads must divide"),
        ({"key_value_heads": 3}, "key-value-heads must divide"),
        ({"d_model": 6}, "into even parts"),
        ({"layers": 0}, "--pretrain.layers"),
        ({"batch_size": 0}, "--pretrain.batch-size"),
        ({"vocabulary": 100}, "--pretrain.vocabulary"),
        ({"learning_rate": 0.0}, "--pretrain.learning-rate"),
        ({"epochs": -1.0}, "--pretrain.epochs"),
        ({"n_probes": 0}, "--pretrain.n-probes"),
        ({"warmup": 1.0}, "--pretrain.warmup"),
        ({"weight_decay": -0.1}, "--pretrain.weight-decay"),
        ({"checkpoint_every": 0}, "--pretrain.checkpoint-every"),
    ],
)
def test_a_setting_out_of_range_names_its_flag(changes, flag, tmp_path):
    with pytest.raises(InputError, match=flag):
        _run(tmp_path, replace(SMALL, **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_place_without_locks_is_an_input_error(code, tmp_path, monkeypatch):
    def flock(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=r"cannot lock (.|\n)*--out DIR"):
        _run(tmp_path)
