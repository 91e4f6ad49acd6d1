"""Who may import whom: fresh interpreters import every module, and we look at what each has loaded.

`core` stands on no other package of ours and loads neither JAX nor torch. Each flow stands on `core` alone, theory
without torch, empirical without JAX; so do the figures, which can be redrawn with the base dependencies.
"""

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "theory", "empirical", "paper_figs")

NUMPY_ONLY = {"theory", "theory.law", "theory.law.theorem", "theory.law.flow", "theory.compare", "theory.facts"}
"""Modules of theory that load no JAX."""

STAGES = ["facts", "pretrain", "knownness", "finetune", "compare"]
"""In the pipeline's order: none may import a later one. (evaluate and attention only measure, so any stage may.)"""

ON_TOP = ["config", "experiments", "__main__"]
"""What stands above the stages, in order: none may be imported from below."""

FAILED = "importing it failed: "

PROBE = """
import importlib, json, sys, traceback
for module in sys.argv[2:]:
    for name in [name for name in sys.modules if name.partition(".")[0] in sys.argv[1].split()]:
        del sys.modules[name]
    before = set(sys.modules)
    try:
        importlib.import_module(module)
        print(json.dumps(sorted(set(sys.modules) - before)))
    except BaseException:
        print(json.dumps(traceback.format_exc()))
"""
"""Prints, module by module, what importing it adds to sys.modules; packages of ours are forgotten in between."""


def _modules() -> list[str]:
    """Return the dotted name of every module, packages by their own name."""
    files = [file.relative_to(ROOT) for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    has_empirical = importlib.util.find_spec("transformers") is not None
    return [name for name in names if has_empirical or not name.startswith("empirical")]


def _forbidden(module: str) -> frozenset[str]:
    """Return the top-level packages that the module must not load."""
    jax, own = {"jax", "flax", "optax"}, set(PACKAGES)
    package = module.partition(".")[0]
    if package == "theory":
        return frozenset({"torch"} | own - {"core", "theory"} | (jax if module in NUMPY_ONLY else set()))
    if package == "empirical":
        return frozenset(jax | own - {"core", "empirical"})
    return frozenset({"torch"} | jax | own - {"core", package})


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """By module, the names it loads: one interpreter for all modules to which the same packages are forbidden."""
    groups: dict[frozenset[str], list[str]] = {}
    for module in _modules():
        groups.setdefault(_forbidden(module), []).append(module)

    def probe(modules: list[str]) -> list[list[str] | str]:
        command = [sys.executable, "-c", PROBE, " ".join(PACKAGES), *modules]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    with ThreadPoolExecutor() as pool:
        answers = pool.map(probe, groups.values())
        by_module = dict(pair for pairs in map(zip, groups.values(), answers) for pair in pairs)
    return {module: {FAILED + names} if isinstance(names, str) else set(names) for module, names in by_module.items()}


@pytest.mark.parametrize("module", _modules())
def test_module_loads_no_package_that_its_place_forbids(module, loaded):
    assert not any(name.startswith(FAILED) for name in loaded[module]), "".join(loaded[module])
    assert not _forbidden(module) & {name.partition(".")[0] for name in loaded[module]}


@pytest.mark.parametrize("package", ["theory", "empirical"])
def test_no_stage_imports_a_later_one_or_what_stands_above(package, loaded):
    order = STAGES + ON_TOP
    for name in order:
        later = {f"{package}.{other}" for other in order[order.index(name) + 1 :]}
        assert not later & loaded.get(f"{package}.{name}", set()), f"{package}.{name}"


def test_every_module_named_here_exists():
    assert NUMPY_ONLY <= set(_modules())
