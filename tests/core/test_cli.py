"""What the command lines share: the version, old flags, exit codes."""

from dataclasses import dataclass

import pytest

from core import cli, former
from core.errors import InputError


@dataclass(frozen=True)
class Command:
    """Add one."""

    number: int = 0

    def __call__(self) -> int:
        if self.number < 0:
            raise InputError("--number is negative.")
        print(self.number + 1)
        return 0


def run(*arguments: str) -> int:
    return cli.main(
        Command, "adder", "Adds.", arguments=arguments, former={"--count": "--number"}, interrupted="interrupted"
    )


def test_a_command_is_parsed_and_called(capsys):
    assert run("--number", "2") == 0
    assert capsys.readouterr().out == "3\n"


def test_the_version_is_printed_alone(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("finetuning-facts ")


@pytest.mark.parametrize("old", ["--count", "--count=3"])
def test_a_flag_of_an_earlier_version_names_the_present_one(capsys, old):
    assert run(old, "3") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "--count is now --number" in printed.err


def test_a_mistake_is_told_on_stderr_without_a_traceback(capsys):
    assert run("--number", "-1") == 2
    assert capsys.readouterr().err == "error: --number is negative.\n"


def test_every_former_flag_of_a_flow_names_one_that_its_help_knows(capsys):
    assert former.flags("theory")["--facts.table"] == "--facts.path"
    assert former.flags("empirical")["--pretrain.hidden"] == "--pretrain.d-model"
    assert former.flags("empirical")["window"] == "screen"


def test_a_script_is_named_as_it_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/facts-theory", "list"])
    assert cli.program("theory") == "facts-theory"
    monkeypatch.setattr("sys.argv", ["/a/theory/__main__.py", "list"])
    assert cli.program("theory") == "python -m theory"
