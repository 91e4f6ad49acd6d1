"""Several processes on one sweep's folder: they divide the work, and being killed harms nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.columns import SWEEP, table
from theory.sweep import parts

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from theory.sweep import parts
from core.columns import SWEEP, table
store = parts.Store(Path(sys.argv[1]), lambda text: print(text, flush=True))
def rows(*units):
    return table({"unit": list(units), "config": "{}", "arm": "base", "accuracy": [ord(u) / 7 for u in units]}, SWEEP)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store(tmp_path):
    return parts.Store(tmp_path / "sweep", print)


@pytest.fixture
def start(store):
    """Return a function that starts a process with a store on the same folder, which goes on when it is told to."""
    started = []

    def begin(program: str) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM + program, str(store.folder)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        started.append(process)
        assert read(process) == "ready"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def read(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go(process: subprocess.Popen) -> None:
    assert process.stdin
    process.stdin.write("\n")


def finish(process: subprocess.Popen) -> str:
    """Return what the process printed until its end."""
    printed, _ = process.communicate("\n" * 9)
    assert process.returncode == 0
    return printed


def rows(*units: str):
    return table({"unit": list(units), "config": "{}", "arm": "base", "accuracy": [ord(u) / 7 for u in units]}, SWEEP)


def table_bytes(store, units: str) -> bytes:
    return store.write_table(store.assemble(list(units), [{}] * len(units), ["base"])).read_bytes()


def test_a_key_is_held_by_one_at_a_time_and_freed_at_the_end_whatever_happens(store):
    other = parts.Store(store.folder, print)
    with store.claim("1") as mine, other.claim("1") as theirs, other.claim("2") as another:
        assert (mine, theirs, another) == (True, False, True)
    with pytest.raises(KeyError), store.claim("1"):
        raise KeyError
    with other.claim("1") as theirs:
        assert theirs
    assert store.done() == {}


def test_a_key_is_freed_when_its_holder_is_killed(store, start):
    holder = start("""
with store.claim("chunk") as held:
    print(held, flush=True)
    sys.stdin.readline()
""")
    go(holder)
    assert read(holder) == "True"
    with store.claim("chunk") as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    for _ in range(2):  # the stale lock file harms nobody, then or later
        with store.claim("chunk") as mine:
            assert mine


DIVIDE = """
for chunk in ("abc", "def", "ghi", "jkl", "mno", "pqr"):
    with store.claim(chunk) as held:
        if held and not set(chunk) <= set(store.done()):
            time.sleep(0.05)
            store.write(rows(*chunk))
            print(chunk, flush=True)
"""


def test_processes_on_one_folder_divide_the_work_and_lose_none_of_it(store, start):
    processes = [start(DIVIDE) for _ in range(3)]
    for process in processes:
        go(process)
    printed = [finish(process).split() for process in processes]
    assert sorted(chunk for chunks in printed for chunk in chunks) == ["abc", "def", "ghi", "jkl", "mno", "pqr"]
    assert len(store.done()) == 18
    alone = parts.Store(store.folder.with_name("alone"), print)
    alone.write(rows(*"abcdefghijklmnopqr"))
    assert table_bytes(store, "abcdefghijklmnopqr") == table_bytes(alone, "abcdefghijklmnopqr")


@pytest.mark.parametrize("moment", ["file.write", "os.fsync", "Path.replace"])
def test_a_writer_killed_at_any_moment_leaves_nothing_that_counts_and_nothing_that_stays(store, start, moment):
    store.write(rows("a"))
    kill = "lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    patch = {
        "file.write": f"parts.writing.write_through = lambda path, write: (path.write_bytes(b'PAR1'), ({kill})())",
        "os.fsync": f"os.fsync = {kill}",
        "Path.replace": f"Path.replace = {kill}",
    }[moment]
    writer = start(f"{patch}\nstore.write(rows('b'))")
    go(writer)
    assert writer.wait() == -signal.SIGKILL
    assert len(list(store.folder.glob(".part-*.partial"))) == 1
    assert set(store.done()) == {"a"}
    assert [path.name for path in store.folder.glob(".*")] == [".locks"]
    store.write(rows("b"))
    assert set(store.done()) == {"a", "b"}


def test_what_a_process_is_writing_is_not_taken_for_a_killed_ones(store, start):
    writer = start("""
def slowly(file):
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
store.replace("part-0.parquet", slowly)
""")
    go(writer)
    assert read(writer) == "writing"
    (partial,) = store.folder.glob(".*.partial")
    assert store.done() == {}
    assert partial.exists()
    finish(writer)
    assert (store.folder / "part-0.parquet").read_bytes() == b"half"
    assert not partial.exists()


def test_two_processes_that_write_the_same_file_take_turns(store, start):
    many = """
for n in range(20):
    store.replace("grid.json", lambda file: [file.write(b"%d" % os.getpid()) for _ in range(500)])
"""
    processes = [start(many) for _ in range(2)]
    for process in processes:
        go(process)
    for process in processes:
        assert finish(process) == ""
    written = (store.folder / "grid.json").read_text()
    assert written in [str(process.pid) * 500 for process in processes]
    assert os.listdir(store.folder / ".locks") == ["write"]
