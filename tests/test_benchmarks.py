"""The benchmarks run, at sizes that say nothing about speed, and their arithmetic is right."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="runs in a source tree")


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("sparse", FOLDER / "sparse.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_whole_run_prints_every_table() -> None:
    left_out = ["--without", "torch.sparse", "torch BSR"]
    command = [
        sys.executable,
        str(FOLDER / "sparse.py"),
        "--size",
        "64",
        "--tokens",
        "1",
        "3",
        "--rounds",
        "1",
        *left_out,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stderr
    out = done.stdout
    for direction in ("forward", "dx", "ddata"):
        assert f"\n{direction}, 1 token\n" in out and f"\n{direction}, 3 tokens\n" in out
    assert out.count("unstructured, CSR           90 %") == 6 and out.count("32 x 32 blocks, BSR         99 %") == 6
    assert "faster than dense BLAS from this share of zeros on" in out and "for each stored byte" in out


def test_experts_at_equal_active_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = np.random.default_rng(0).choice(["sparse ", "experts ", "see ", "the ", "token\n"], 6000)
    (tmp_path / "text.txt").write_text("".join(words))
    command = [sys.executable, str(FOLDER / "experts.py"), "--experts", "2", "4", "--steps", "2", "--seeds", "1"]
    options = ["--rounds", "1", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stderr
    rows = {line[2:18].strip(): line[18:].replace(",", "").split() for line in done.stdout.splitlines()[-5:-1]}
    active = [int(rows[name][1]) for name in ("dense twin", "2 of 2 experts", "2 of 4 experts")]
    assert max(active) < 1.01 * min(active)  # equal, up to the router
    assert int(rows["2 of 4 experts"][0]) > 1.4 * int(rows["2 of 2 experts"][0])
    assert (tmp_path / "out" / "experts.png").stat().st_size > 10_000


def test_a_size_without_whole_blocks_is_refused() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "sparse.py"), "--size", "50"], capture_output=True, text=True)
    assert done.returncode == 2 and "must be a multiple of 32" in done.stderr


def test_the_share_from_which_a_form_wins(sparse: ModuleType) -> None:
    levels = (50, 70, 90)
    assert sparse.crossing(levels, [4.0, 2.0, 0.5]) == "80 %"
    assert sparse.crossing(levels, [2.0, 0.5, 0.1]) == "60 %"
    assert sparse.crossing(levels, [0.9, 0.5, 0.1]) == "50 % or fewer"
    assert sparse.crossing(levels, [4.0, 2.0, 1.5]) == "not by 90 %"
    assert sparse.crossing(levels, [4.0, math.nan, 0.5]) == "-"
    assert sparse.crossing(levels, [0.9, 1.1, 0.5]) != "50 % or fewer"  # the last crossing counts


@pytest.mark.parametrize("name", ["pymoe", "scipy.sparse", "torch.sparse"])
def test_all_contenders_compute_the_same_products(sparse: ModuleType, name: str) -> None:
    import sparse_worker

    if name == "torch.sparse":
        pytest.importorskip("torch")
    x, dy = sparse_worker.batches(64, [3])[3]
    matrices = {(form, zeros): w for form, zeros, w in sparse_worker.problems(64)}
    for form, zeros, n, (forward, dx, ddata) in sparse_worker.CONTENDERS[name](64, [3]):
        w = matrices[form, zeros]
        assert n == 3
        assert np.allclose(np.asarray(forward()), x @ w.T, atol=1e-4)
        assert np.allclose(np.asarray(dx()), dy @ w, atol=1e-4)
        dw = (dy.T @ x)[w != 0] if not (name == "pymoe" and form == "bsr") else None
        if dw is not None:
            found = ddata()
            values = found.values() if hasattr(found, "values") else found
            assert np.allclose(np.asarray(values).reshape(-1), dw, atol=1e-4)
