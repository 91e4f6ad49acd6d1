import copy
import math
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.split import SplitConfig
from theory import config as configs
from theory.config import Config
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.model.config import ModelConfig
from theory.pretrain import PretrainConfig
from theory.sweep import units

ARMS = ("base", "top", "bottom")


def identity(config, cell=(0, 0, 0), arms=ARMS) -> str:
    return units.identities(config, [cell], arms)[0]


def name(config=None, cell=(0, 0, 0), arms=ARMS) -> str:
    return identity(configs.to_json(config or Config()), cell, arms)


SOME_SETTINGS = st.tuples(
    st.integers(1, 2),
    st.none() | st.text(max_size=2),
    st.none() | st.just(3),
    st.floats(allow_nan=False),
    st.booleans(),
)
SOME_CELLS = st.tuples(*[st.integers(0, 11)] * 3)
SOME_NUMBERS = st.sampled_from([0, 0.0, -0.0, 1, 1.0, 0.1, 0.1 + 2e-17, 1e22, 10**22, math.inf, -math.inf, None])


def _config(n_subjects, where, dimension, template_strength, within_relation) -> Config:
    """Return a config; made in a test's body, as beartype draws random numbers, which a strategy may not."""
    return Config(
        facts=FactsConfig(n_subjects=n_subjects, where=where),
        model=ModelConfig(dimension=dimension, template_strength=template_strength),
        split=SplitConfig(within_relation=within_relation),
    )


@given(SOME_SETTINGS, SOME_SETTINGS, SOME_CELLS, SOME_CELLS)
def test_two_units_have_one_name_iff_config_and_seeds_are_equal(settings, other_settings, cell, other_cell):
    one, other = _config(*settings), _config(*other_settings)
    assert (name(one, cell) == name(other, other_cell)) == (one == other and cell == other_cell)
    assert (name(one, cell) == name(one, other_cell)) == (cell == other_cell)
    assert name(one, cell) == name(copy.deepcopy(one), cell)


@given(SOME_NUMBERS, SOME_NUMBERS)
def test_two_numbers_in_a_config_are_one_iff_they_are_equal(one, other):
    named = [identity({"model": {"strength": [number]}}, (0, 0, 0), ARMS) for number in (one, other)]
    assert (named[0] == named[1]) == (one == other)


def test_a_name_is_the_same_in_every_process_and_version(monkeypatch):
    monkeypatch.setattr(units, "SWEEP_SCHEMA", 1)
    config = {"facts": {"n_subjects": 10, "table": None}, "rate": 0.1}
    assert identity(config, (0, 1, 2), ["base", "top"]) == "90508562ffe186f412464ac8728aaa58"


def test_any_field_any_seed_and_the_set_of_arms_change_the_name():
    changed = [
        name(),
        name(Config(finetune=FinetuneConfig(steps=201))),
        name(Config(pretrain=PretrainConfig(steps=201))),
        name(cell=(1, 0, 0)),
        name(cell=(0, 1, 0)),
        name(cell=(0, 0, 1)),
        name(arms=ARMS[:2]),
    ]
    assert len(set(changed)) == len(changed)
    assert name(arms=ARMS[::-1]) == name()
    assert all(len(one) == 32 and int(one, 16) for one in changed)


def test_another_schema_gives_other_names(monkeypatch):
    before = name()
    monkeypatch.setattr(units, "SWEEP_SCHEMA", units.SWEEP_SCHEMA + 1)
    assert name() != before


def test_many_units_are_named_as_one_by_one():
    cells = [(k, k, n) for k in range(3) for n in range(2)]
    config = configs.to_json(Config())
    assert units.identities(config, cells, ARMS) == [identity(config, cell, ARMS) for cell in cells]
    assert config == configs.to_json(Config()), "the caller's config was changed"


def test_a_table_of_facts_counts_by_its_content_and_extension_wherever_it_lies(tmp_path):
    def of(path: Path | str) -> str:
        return name(Config(facts=FactsConfig(path=Path(path))))

    (tmp_path / "a.csv").write_text("subject,relation\n")
    (tmp_path / "b.csv").write_text("subject,relation\n")
    (tmp_path / "b.tsv").write_text("subject,relation\n")
    before = of(tmp_path / "a.csv")
    assert before == of(tmp_path / "a.csv") == of(tmp_path / "b.csv")
    assert len({before, of(tmp_path / "b.tsv"), name()}) == 3
    (tmp_path / "a.csv").write_text("subject,relatiom\n")
    os.utime(tmp_path / "a.csv", ns=(1, 1))  # the same length, written within the clock's tick: the time must differ
    assert of(tmp_path / "a.csv") != before
    assert of("hub:a/b") == of("hub:a/b") != of("hub:a/c")


def test_a_table_is_read_once_while_it_stays_as_it_is(tmp_path, monkeypatch):
    table = tmp_path / "a.csv"
    table.write_text("subject\n")
    config = configs.to_json(Config(facts=FactsConfig(path=table)))
    before = identity(config)
    monkeypatch.setattr(units.hashlib, "file_digest", None)
    assert identity(config) == before


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read \(No such file or directory\); check --facts"):
        name(Config(facts=FactsConfig(path=tmp_path / "gone.csv")))


def test_results_that_fit_neither_disk_nor_memory_are_refused_with_their_size(tmp_path, monkeypatch):
    units.check_space(tmp_path / "not" / "yet", 1000, 5)
    place = tmp_path / "not" / "yet"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1_900_000_000))
    monkeypatch.setattr(os, "sysconf", lambda name: 5_100_000 if name == "SC_PHYS_PAGES" else 1000)
    units.check_space(place, 900_000, 5)
    with pytest.raises(InputError) as caught:
        units.check_space(place, 1_000_000, 5)
    assert str(caught.value) == (
        f"1,000,000 units of 5 arms take 2.0 GB, and {tmp_path} has 1.9 GB.\n"
        "Take fewer seeds or a coarser grid, or name another place by --out DIR."
    )
    with pytest.raises(InputError, match=r"take 5\.2 GB, and this machine's memory has 5\.1 GB\.\nTake fewer seeds"):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10**12))
        units.check_space(place, 5_200_000, 1)
    assert list(tmp_path.iterdir()) == []
