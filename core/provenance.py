"""What a result may depend on besides its config: versions, device, commit."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "pyarrow", "jax", "jaxlib", "flax", "optax", "torch", "transformers", "peft")


def environment() -> dict[str, Any]:
    """Return the report's `versions` (of what is loaded), `device` and `git_commit`; loads nothing itself."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in sys.modules}
    return {
        "versions": {"python": platform.python_version()} | versions,
        "device": device(),
        "git_commit": git_commit(),
    }


def device() -> str:
    """Return the accelerators that the loaded framework sees, or the processor."""
    if jax := sys.modules.get("jax"):
        devices = jax.devices()
        if devices[0].platform != "cpu":
            return f"{len(devices)} × {devices[0].device_kind}"
    elif (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} × {processor()}"


def processor() -> str:
    """Return the processor's model, on which a language model's bits depend, or at least its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Return the checkout's commit, with "-dirty" where tracked files differ; None outside a checkout of ours."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def code_hash(*packages: Path) -> str:
    """Return the SHA-256 of what the packages' modules do, sub-packages included: comments and docstrings count not."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            tree = ast.parse(file.read_bytes())
            for node in ast.walk(tree):
                # A string that is a statement of its own: a docstring, of a module, class, function or field.
                if isinstance(body := getattr(node, "body", None), list):
                    body[:] = [one for one in body if not _is_text(one)]
            digest.update(f"{file.relative_to(package)} {ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
