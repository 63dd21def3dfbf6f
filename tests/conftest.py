"""What holds for all tests, and how a second run leaves out what has passed in the first.

One thread for BLAS and OpenMP, before NumPy is imported: two busy 2-thread BLAS processes slow each other down by up to
90 times.  A test whose subject is threads asks for more itself.

``--passed-to=FILE`` writes the names of the tests that passed; ``--not-again=FILE`` runs what is not among them: what
was skipped for want of a library, deselected, or not there.  So every test that the second run finds has passed in one
of the two, and what a first run without the oracle libraries could not do is not left to a mark that someone forgets.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# the same examples in every run, on every worker; ``--hypothesis-profile=default`` looks for new ones
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pymoe")
    group.addoption("--passed-to", type=Path, metavar="FILE", help="write the names of the tests that passed")
    group.addoption("--not-again", type=Path, metavar="FILE", help="leave out the tests that FILE names")


def pytest_configure(config: pytest.Config) -> None:
    # a worker of xdist reports to its master, which alone sees every test
    if config.getoption("passed_to") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Passed(config.getoption("passed_to")))


class Passed:
    """Collect the names of the tests whose call passed and whose setup and teardown did not fail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: set[str] = set()
        self.other: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed or hasattr(report, "wasxfail"):
            self.other.add(report.nodeid)
        elif report.when == "call":
            self.passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.write_text("".join(f"{name}\n" for name in sorted(self.passed - self.other)), encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    yield
    if path := config.getoption("not_again"):
        passed = set(path.read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]
