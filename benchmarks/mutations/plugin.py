"""Plugin of pytest: breaks the program by the mutation that the environment names, before any test is collected."""

import os

import pytest

from benchmarks.mutations import apply, catalogue

VARIABLE = "FACTS_MUTATION"


# After the plugin that checks types at run time has been set up, and before the tests import the program.
@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Put the wrong function in place, for this process alone."""
    apply.put(*apply.wrong_function(catalogue.BY_NAME[os.environ[VARIABLE]]))
