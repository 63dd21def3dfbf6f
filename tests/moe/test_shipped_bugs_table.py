"""The table of shipped defects is complete: each number and each adversarial input has a test, which names it."""

from __future__ import annotations

import re

from ..oracles.cases import cases
from . import test_layer_oracle
from .shipped import BUGS, INPUTS
from .test_shipped_bugs_controls import TESTS


def test_every_number_has_a_test_or_a_reason() -> None:
    assert list(BUGS) == list(range(1, 85))
    for number, (where, tests) in BUGS.items():
        if isinstance(tests, str):
            assert len(tests) > 20, number
            continue
        assert tests and all(name in TESTS for name in tests), number
        words = [w for w in re.split(r"[ ,/]+", where) if w not in ("HF", "Switch")]
        assert any(words[-1] in (TESTS[name].__doc__ or "") for name in tests), (number, where)


def test_every_test_names_what_it_would_have_caught() -> None:
    for name, test in TESTS.items():
        assert re.search(r"#\d+|\b[0-9a-f]{8,10}\b|[A-Z]", test.__doc__ or ""), name


def test_every_adversarial_input_is_tried() -> None:
    run = {c.name for c in cases()} - test_layer_oracle.OTHERS
    assert len(INPUTS) == 32
    for what, tests in INPUTS.items():
        assert tests, what
        for name in tests:
            assert name.removeprefix("case:") in run if name.startswith("case:") else name in TESTS, (what, name)


def test_no_test_is_left_out_of_the_table() -> None:
    named = {n for _, tests in BUGS.values() if not isinstance(tests, str) for n in tests}
    assert named | {n for tests in INPUTS.values() for n in tests} >= set(TESTS)
