"""The benchmark of the applications runs: on made texts always, and on a slice of the real ones where they are."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "applications.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="runs in a source tree")
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
CONTENDERS = (
    "most frequent class", "TF-IDF words 1-2, logistic", "TF-IDF characters 2-5, logistic", "TextEncoder, logistic",
    "pymoe, dense twin", "pymoe, sparse, end to end",
)  # fmt: skip


def run(data: str | None, *args: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYMOE_DATA"} | ONE
    env |= {} if data is None else {"PYMOE_DATA": data}
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, timeout=280, env=env)


def scores(out: str) -> dict[str, float]:
    return {name: float(line[34:].split()[0]) for line in out.splitlines() for name in (line[2:34].strip(),)
            if name in (*CONTENDERS, "pymoe, experts by source")}  # fmt: skip


def test_made_texts_of_four_sources(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "sentiment"
    folder.mkdir()
    for stem in ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets"):
        lines = []
        for i in range(25):
            rating = (2.0, -2.0, 0.0)[i % 3]
            word = {2.0: "fine", -2.0: "poor", 0.0: "some"}[rating]
            lines.append(f"{stem}_{i}\t{rating}\ta {word} {rng.choice(['day', 'film', 'word'])} of {stem}\n")
        with gzip.open(folder / f"{stem}_GroundTruth.txt.gz", "wb") as file:
            file.write("".join(lines).encode())
    done = run(str(tmp_path), "--only", "sentiment")
    assert done.returncode == 0, done.stderr
    found = scores(done.stdout)
    assert "sentiment, seed 0: 80 texts to train on, 20 held out, 3 classes" in done.stdout
    assert set(found) == {*CONTENDERS, "pymoe, experts by source"}
    assert min(found[name] for name in found if name != CONTENDERS[0]) > 0.9 > found[CONTENDERS[0]]  # plain words


def test_without_the_data_a_task_is_left_out_and_a_bad_option_is_refused() -> None:
    done = run(None, "--only", "sentiment")
    assert done.returncode == 0 and "sentiment is left out: set PYMOE_DATA" in done.stdout
    done = run(None, "--rows", "3")
    assert done.returncode == 2 and "--rows at least 50" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PYMOE_DATA"), reason="PYMOE_DATA is not set")
@pytest.mark.parametrize("task", ["sentiment", "domains"])
def test_a_slice_of_the_real_texts(task: str) -> None:
    done = run(os.environ["PYMOE_DATA"], "--only", task, "--rows", "600")
    assert done.returncode == 0, done.stderr
    found = scores(done.stdout)
    assert f"{task}, seed 0: 480 texts to train on, 120 held out" in done.stdout and set(CONTENDERS) <= set(found)
    assert found["pymoe, sparse, end to end"] > found["most frequent class"]
