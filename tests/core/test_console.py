"""Progress where there is no terminal, how it counts, and how a command ends."""

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from core import console


@pytest.fixture
def written(monkeypatch):
    """What is written to stderr, which is no terminal."""
    text = io.StringIO()
    monkeypatch.setattr(console, "ERRORS", Console(file=text, soft_wrap=True))
    return text


def test_without_a_terminal_a_line_tells_how_far_it_is_and_what_is_left(written, monkeypatch):
    monkeypatch.setattr(console._Lines, "FIRST", 0.05)
    with console.progress("paper", 4) as advance:
        advance("training", 1)
        deadline = time.monotonic() + 10
        while "of 4" not in written.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "paper: 1 of 4 done in 0:00:00, 0:00:00 left (training)" in written.getvalue()


def test_the_time_left_is_in_proportion():
    lines = console._Lines("sweep", 10)
    lines.stop.set()
    assert lines.line(5) == "sweep: 0 of 10 done in 0:00:05"
    lines.advance("", 2.5)
    assert lines.line(60) == "sweep: 2.5 of 10 done in 0:01:00, 0:03:00 left"


def test_what_is_done_in_all_becomes_how_much_more_is_done():
    told = []
    tell = console.absolute(lambda doing, n: told.append((doing, n)))
    tell("a", 0.5)
    tell("b", 2.0)
    assert told == [("a", 0.5), ("b", 1.5)]


def test_nothing_to_do_shows_nothing(written):
    with console.progress("paper", 0) as advance:
        advance("training", 1)
    assert written.getvalue() == ""


def test_a_closed_pipe_ends_it_without_a_word():
    much = "lambda: print('x' * 100_000, flush=True) or 0"
    program = f"import sys; from core.console import exit_code; sys.exit(exit_code({much}, interrupted=''))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout and started.stderr
        started.stdout.close()
        assert started.stderr.read() == b"" and started.wait() == 141
