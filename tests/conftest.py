"""What holds for every test: no window, no accelerator hogged, slow and gpu tests that skip themselves."""

import os
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Before any test imports the libraries that read these, and inherited by the subprocesses that tests start.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # on any machine, so that worlds are always shared out over some
# Most of the time would go into compiling: it is done quickly, and once for all tests, workers and subprocesses.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
PINS = (ROOT / "constraints.txt").read_text()
if f"\njaxlib=={version('jaxlib')}\n" in PINS:  # another build might not know the flag, and end
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers already fill the machine

# The same examples every time, and no deadline: the first example pays for compilation.
settings.register_profile("repository", derandomize=True, deadline=None)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--odd-tables", type=int, default=10, help="how many odd tables go through each flow's command")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not config.getoption("--slow"):
        reasons["slow"] = "slow: give --slow"
    if any(item.get_closest_marker("gpu") for item in items) and not _has_accelerator():
        reasons["gpu"] = "gpu: no accelerator here"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_accelerator() -> bool:
    import jax
    import torch

    return jax.default_backend() != "cpu" or torch.cuda.is_available()


@pytest.fixture(scope="session")
def odd_tables():
    """Return the module `odd_tables.py`."""
    spec = spec_from_file_location("odd_tables", Path(__file__).with_name("odd_tables.py"))
    assert spec and spec.loader
    spec.loader.exec_module(module := module_from_spec(spec))
    return module
