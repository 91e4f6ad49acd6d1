import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from core import provenance

ROOT = Path(__file__).resolve().parents[2]


def test_versions_are_those_of_the_loaded_packages():
    versions = provenance.environment()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]


def test_environment_loads_nothing_heavy():
    program = (
        "import json, sys; from core import provenance; environment = provenance.environment();"
        "print(json.dumps([environment, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    environment, modules = json.loads(done.stdout)
    assert set(environment["versions"]) == {"python"}
    assert environment["device"].startswith(f"{os.cpu_count()} × ")
    assert not {"numpy", "jax", "torch"} & set(modules)


def test_commit_is_that_of_our_checkout_and_nothing_elsewhere(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "theory").mkdir()
    module = tmp_path / "theory" / "provenance.py"
    module.write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.git_commit() is None
    git("init", "--quiet")
    assert provenance.git_commit() is None
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "HEAD")
    assert provenance.git_commit() == head
    module.write_text("second")
    assert provenance.git_commit() == f"{head}-dirty"


def test_the_codes_hash_ignores_comments_and_docstrings_and_sees_sub_packages(tmp_path):
    (tmp_path / "law").mkdir()
    module = tmp_path / "law" / "theorem.py"
    module.write_text('"""R1."""\n\nRATE = 2.0\n"""Of W_KQ."""\n\n\ndef step(x):\n    return RATE * x\n')
    before = provenance.code_hash(tmp_path)
    module.write_text(
        '"""Result 1."""\n\nRATE = 2.0  # of W_KQ\n\n\ndef step(x):\n    """Step."""\n    return RATE * x\n'
    )
    assert provenance.code_hash(tmp_path) == before
    module.write_text("RATE = 2.0\n\n\ndef step(x):\n    return x * RATE\n")
    assert provenance.code_hash(tmp_path) != before
