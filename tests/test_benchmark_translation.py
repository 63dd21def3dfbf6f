"""The benchmark of translation runs, for a few steps that say nothing about quality."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "translation.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="runs in a source tree")
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}


def run(data: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **ONE, "PYMOE_DATA": data}
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, timeout=280, env=env)


def test_without_the_data_it_says_what_it_needs(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 2 and "set PYMOE_DATA" in done.stdout and not done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PYMOE_DATA"), reason="PYMOE_DATA is not set")
def test_a_short_run_prints_both_models_and_draws_the_curve(tmp_path: Path) -> None:
    out = tmp_path / "run"
    quick = ["--preset", "tiny", "--steps", "20", "--no-verify", "--beam", "1"]
    done = run(os.environ["PYMOE_DATA"], "--out", str(out), *quick)
    assert done.returncode == 0, done.stderr
    assert "\n| sparse | " in done.stdout and "\n| dense | " in done.stdout and " pairs to train on" in done.stdout
    assert (out / "learning.png").stat().st_size > 10_000
