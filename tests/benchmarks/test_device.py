import json
from pathlib import Path

import pytest
import tyro

from benchmarks import __main__ as benchmarks
from benchmarks import device
from core.errors import InputError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> device.Settings:
    parts = {"well": ["json.tool", "--help"], "badly": ["json.tool", str(tmp_path / "absent.json")]}
    monkeypatch.setattr(device, "commands", lambda settings: parts)
    return device.Settings(device="cpu", out=tmp_path / "out")


def test_every_part_is_a_command_that_there_is(tmp_path: Path) -> None:
    parts = device.commands(device.Settings(out=tmp_path))
    assert list(parts) == ["repeated", "verify", "theory", "sweep", "scale", "lm", "lm-long", "lm-1024"]
    for module, name, *flags in parts.values():
        if module == "benchmarks":
            assert isinstance(
                tyro.extras.subcommand_cli_from_dict(benchmarks.COMMANDS, args=[name, *flags]),
                benchmarks.COMMANDS[name],
            )


def test_the_quick_parts_are_not_refused_by_what_they_run(tmp_path: Path) -> None:
    lm = pytest.importorskip("benchmarks.lm")
    for name, command in device.commands(device.Settings(out=tmp_path, quick=True)).items():
        if name.startswith("lm"):
            lm._check(tyro.extras.subcommand_cli_from_dict(benchmarks.COMMANDS, args=command[1:]))


def test_what_ended_well_is_not_run_again_and_what_failed_is(settings: device.Settings) -> None:
    assert device.run(settings) == 1
    said = {path.name: json.loads(path.read_text()) for path in settings.out.glob("*.done.json")}
    assert said["well.done.json"]["code"] == 0 and said["badly.done.json"]["code"] != 0
    assert "absent.json" in (settings.out / "badly.log").read_text()
    (settings.out / "well.log").unlink()
    (settings.out / "badly.log").unlink()
    assert device.run(settings) == 1
    assert [path.name for path in settings.out.glob("*.log")] == ["badly.log"]


def test_a_part_that_there_is_not_is_named(settings: device.Settings) -> None:
    with pytest.raises(InputError, match="no 'gpu'; there are well, badly"):
        device.run(device.Settings(device="cpu", parts=("gpu",), out=settings.out))


def test_two_pretrainings_on_a_processor_are_the_same_bit_for_bit() -> None:
    assert device.repeated()["same_bits"]
