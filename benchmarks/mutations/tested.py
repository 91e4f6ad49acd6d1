"""What the tests say of broken programs, in a process of its own: `python -m benchmarks.mutations.tested NAMES`.

All errors are put to the tests in one process, which imports and compiles once. A line of JSON for each goes to stdout.
"""

import contextlib
import io
import json
import os
import sys

import pytest

from benchmarks.mutations import apply, catalogue
from benchmarks.mutations.apply import Mutation

QUIET = ("-x", "-q", "-p", "no:cacheprovider")
AGAIN = ("-o", "addopts=", "--import-mode=importlib", "--strict-markers")
"""After the first run the program is imported, and the plugin that checks types has done its work."""


class First:
    """Plugin of pytest: remembers the first test that fails, or the file that cannot be collected."""

    def __init__(self) -> None:
        self.name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid


def noticed(mutation: Mutation) -> list[str]:
    """Return the first of the tests that fails, none if all pass; the program is to have been imported by pytest."""
    first = First()
    with apply.broken(mutation), contextlib.redirect_stdout(io.StringIO()):
        code = pytest.main([*AGAIN, *QUIET, mutation.test_file], plugins=[first])
    if first.name is None and code != pytest.ExitCode.OK:
        raise RuntimeError(f"{mutation.test_file}: pytest ended with {code!r}")
    return [first.name] if first.name else []


def main(names: list[str]) -> None:
    """Put each error to its tests, and print what notices it."""
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--collect-only", *QUIET, "tests/theory/test_evaluate.py"])
    for name in names:
        print(json.dumps([name, noticed(catalogue.BY_NAME[name])]), flush=True)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "200"
    main(sys.argv[1:])
