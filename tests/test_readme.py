"""Code blocks of README and docs work: `bash` and `python` blocks are run, the long commands in `sh` blocks parsed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from empirical import __main__ as empirical
from theory import __main__ as theory

PROGRAMS = {"theory": theory.main, "empirical": empirical.main, "benchmarks": benchmarks.main}
ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (language, text)
    for page in PAGES
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
]


def _blocks(language: str) -> list[str]:
    """Return the blocks of a language, each once."""
    return list(dict.fromkeys(text for name, text in BLOCKS if name == language))


def _commands() -> list[str]:
    """Return the commands of `sh` blocks, each once, comments left out."""
    lines = (line.split("#")[0].strip() for text in _blocks("sh") for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _run(command: list[str] | str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, shell=isinstance(command, str))
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


CALLED = """
set -e
trap "printf 'the end' > calls" EXIT
python() {
    printf '%s\\0' "$@" > calls
    local code
    read -r code < codes
    return "$code"
}
"""


@pytest.mark.parametrize("text", _blocks("bash"))
def test_a_bash_block_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a shell, whose `python -m PROGRAM` this process does: to import a program takes longer than what it is told.
    monkeypatch.chdir(tmp_path)
    for name in ("calls", "codes"):
        os.mkfifo(name)
    shell = subprocess.Popen(["bash", "-c", CALLED + text], cwd=tmp_path)
    n_calls = 0
    try:
        while (call := Path("calls").read_text()) != "the end":
            dash_m, program, *arguments = call.removesuffix("\0").split("\0")
            assert dash_m == "-m"
            code = PROGRAMS[program](arguments)
            assert code == 0, (program, arguments)
            Path("codes").write_text(f"{code}\n")
            n_calls += 1
        assert shell.wait(60) == 0 and n_calls
    finally:
        shell.kill()
        shell.wait()


@pytest.mark.parametrize("text", _blocks("python"))
def test_a_python_block_runs(text: str, tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{text}"
    assert "base" in _run([sys.executable, "-c", script], tmp_path)


@pytest.mark.parametrize("line", _commands())
def test_a_command_of_an_sh_block_parses(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[0] == "make":
        _run(["make", "--dry-run", *words[1:]], ROOT)
    elif words[2] in PROGRAMS:
        # In this process: to import a program takes far longer than to parse a command.
        arguments = [*words[3:], "--dry-run"] if words[3] == "run" else [words[3], "--help"]
        try:
            assert PROGRAMS[words[2]](arguments) == 0
        except SystemExit as ended:
            assert ended.code == 0
    else:
        _run([sys.executable, *words[1:4], "--help"], ROOT)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_picture_and_file_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_map_names_every_folder_of_the_top_level_and_none_that_is_not_there() -> None:
    tree = next(text for text in README.split("```") if "constraints.txt" in text)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^(\w+)/", tree, flags=re.MULTILINE))
    assert [name for name in re.findall(r"^(\w+)/", tree, flags=re.MULTILINE) if not (ROOT / name).is_dir()] == []
