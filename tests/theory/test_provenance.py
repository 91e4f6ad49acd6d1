import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from theory import provenance

ROOT = Path(provenance.__file__).resolve().parent.parent


def test_versions_are_those_of_the_loaded_packages():
    versions = provenance.environment()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]


def test_environment_loads_nothing_heavy():
    program = (
        "import json, sys; from theory import provenance; environment = provenance.environment();"
        "print(json.dumps([environment, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    environment, modules = json.loads(done.stdout)
    assert set(environment["versions"]) == {"python"}
    assert environment["device"].endswith("processor")
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
