import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import writing
from core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_unwritable_place_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/runs"):
        writing.check_writable(tmp_path / "file" / "runs")
    writing.check_writable(tmp_path / "new" / "runs")
    assert listing(tmp_path / "new" / "runs") == []


def test_no_two_processes_write_the_same_hidden_file(tmp_path):
    """Another process writes the file anew while this one is at it: readers see either, whole."""
    path = tmp_path / "a.parquet"
    other = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nfrom pathlib import Path\nfrom core import writing\n"
        f"writing.replace_file(Path({str(path)!r}), lambda file: file.write(b'theirs'))"
    )

    def slowly(file):
        file.write(b"ou")
        subprocess.run([sys.executable, "-c", other], check=True)
        assert path.read_bytes() == b"theirs"
        file.write(b"rs")

    writing.replace_file(path, slowly)
    assert path.read_bytes() == b"ours" and listing(tmp_path) == ["a.parquet"]


def test_what_dead_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "a"
    left = [f".a.{writing.HOST}-{ended.pid}.partial", ".a.elsewhere-7.partial", ".a.partial"]
    kept = [
        f".a.{writing.HOST}-1.partial",
        ".a.elsewhere-8.partial",
        f".a.b.{writing.HOST}-{ended.pid}.partial",
        ".a.c",
    ]
    for name in [*left, *kept]:
        (tmp_path / name).write_text("")
    for name in left[1:]:
        os.utime(tmp_path / name, (0, 0))
    writing.replace_file(path, lambda file: file.write(b"x"))
    assert listing(tmp_path) == sorted([*kept, "a"])


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ZeroDivisionError), writing.folder_of(path) as partial:
        (partial / "half").write_text("")
        raise ZeroDivisionError
    assert listing(tmp_path) == []
    with writing.folder_of(path) as partial:
        (partial / "whole").write_text("")
        assert not path.exists()
    assert listing(path) == ["whole"] and listing(tmp_path) == ["model"]
    with pytest.raises(InputError, match="cannot write"), writing.folder_of(path):
        pass
    assert listing(path) == ["whole"] and listing(tmp_path) == ["model"]


def test_on_windows_no_folder_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", lambda *given: pytest.fail("a folder was opened"))
    monkeypatch.setattr(os, "name", "nt")
    writing.sync(tmp_path)
    monkeypatch.undo()
