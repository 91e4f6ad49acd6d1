"""`verify` goes by the verdicts that it kept, as long as they are of this config and this code."""

from core import provenance
from theory.config import Config
from theory.verify import verdicts


def test_verdicts_are_remembered_for_this_config_count_of_worlds_code_libraries_and_device(tmp_path, monkeypatch):
    rows = [{"experiment": "verify", "result": "R1", "verdict": "holds", "error": 0.0}]
    config = Config(n_records=3)
    assert verdicts.read(tmp_path, config, 2) is None
    verdicts.write(tmp_path, config, 2, rows)
    rows_read = verdicts.read(tmp_path, config, 2)
    assert rows_read and rows_read[0]["verdict"] == "holds" and rows_read[0]["note"] is None
    assert verdicts.read(tmp_path, config, 3) is None
    assert verdicts.read(tmp_path, Config(n_records=4), 2) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "report.json"]
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_hash", lambda *packages: "of other code")
        assert verdicts.read(tmp_path, config, 2) is None
    for where, name in ((provenance, "device"), (verdicts.platform, "python_version"), (verdicts.metadata, "version")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, lambda *_: "another")
            assert verdicts.read(tmp_path, config, 2) is None
    monkeypatch.setattr(provenance, "git_commit", lambda: "another")
    assert verdicts.read(tmp_path, config, 2)


def test_verdicts_depend_on_the_code_of_both_core_and_theory():
    assert [path.name for path in verdicts.PACKAGES] == ["core", "theory"]
