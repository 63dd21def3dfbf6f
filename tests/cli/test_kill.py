"""kill -9 and Ctrl-C at random moments; --resume ends with the bytes of the run that nobody stopped."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.cli.runs import SMALL, call, start, state, wait_for_lines

STEPS = 90
RUN = [*SMALL, "--steps", str(STEPS), "--save-every", "7", "--compare-dense"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = call("train", *RUN, "--out", str(folder))
    assert (code, err) == (0, "")
    assert "the sparse model's loss is" in out
    found = state(folder)
    assert len(found) == 5
    return found


def interrupted(folder, rng, how, stops):
    """Start, stop ``stops`` times at random records, and let it finish; returns what the last call said."""
    process = start("train", *RUN, "--out", str(folder))
    said = []
    for _ in range(stops):
        lines = int(rng.integers(0, 2 * STEPS))
        path = folder / "metrics.jsonl" if lines < STEPS else folder / "dense" / "metrics.jsonl"
        wait_for_lines(process, path, lines % STEPS)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        said.append((process.returncode, out, err))
        process = start("train", "--resume", str(folder), "--no-plots", "--no-verify")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    return said


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 12))])
def test_kill_9_and_resume_gives_the_same_bytes(seed, whole, tmp_path):
    said = interrupted(tmp_path / "run", np.random.default_rng(seed), signal.SIGKILL, 3)
    assert any(code == -9 for code, _, _ in said)
    assert state(tmp_path / "run") == whole
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_leaves_a_run_that_resume_continues(seed, whole, tmp_path):
    said = interrupted(tmp_path / "run", np.random.default_rng(100 + seed), signal.SIGINT, 2)
    stopped = [(out, err) for code, out, err in said if code == 130]
    assert stopped
    for _, err in stopped:
        assert f"continue with `pymoe train --resume {tmp_path / 'run'}`" in err and "Traceback" not in err
    assert state(tmp_path / "run") == whole
