"""No mutant survives that is not on the accepted list: a sample in every run, what ``EVERY`` says with ``-m slow``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pymoe.verify import mutate

from .accepted import ACCEPTED
from .targets import EVERY, GROUPS, TESTS, kernels

SAMPLE = {"pymoe.ops.swiglu", "pymoe.ops.softmax", "pymoe.ops.linear", "pymoe.ops.sigmoid", "pymoe.ops.rope"}


def test_a_sample_of_the_ops_has_no_unlisted_survivor() -> None:
    targets = []
    for t in GROUPS["ops"]():
        if t.module in SAMPLE:  # the table of cases alone: the edge cases take seconds
            targets.append(mutate.Target(t.module, t.suites[:1], every=5))
    result = mutate.run(targets, jobs=1, accepted=ACCEPTED)
    assert len(result.judged) >= 10
    assert not result.survivors, result.table() + "\n" + "\n".join(v.key for v in result.survivors)


def test_a_sample_of_the_kernels_has_no_unlisted_survivor() -> None:
    targets = [mutate.Target(t.module, t.suites[:1], every=20) for t in kernels()[:2]]  # by the loops alone
    result = mutate.run(targets, jobs=1, accepted=ACCEPTED)
    assert len(result.judged) >= 20
    assert not result.survivors, result.table() + "\n" + "\n".join(v.key for v in result.survivors)


def test_every_reason_on_the_accepted_list_says_something() -> None:
    assert all(len(reason) > 20 for reason in ACCEPTED.values())
    assert all(key.startswith("pymoe.") and " -> " in key for key in ACCEPTED)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", GROUPS)
def test_no_mutant_survives_that_is_not_accepted(group: str) -> None:
    script = Path(TESTS) / "mutation" / "run.py"
    command = [sys.executable, str(script), group, "--every", str(EVERY.get(group, 1))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
