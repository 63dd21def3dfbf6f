"""Eight Python threads in one layer, and the compiled kernels over one to four OpenMP threads: the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from pymoe import kernels, presets

from .frames import bits, everything, make


def test_eight_threads_at_once_give_the_same_bits() -> None:
    """No module state: megablocks kept its router logits in a global list."""
    frames_ = [
        make(presets.PRESETS[name](d_model=24, d_ff=20, n_experts=8, k=k), 160, mask=True, seed=i)
        for i, (name, k) in enumerate([("mixtral", 2), ("deepseek_v3", 4), ("noisy_topk", 2), ("gshard", 2)])
    ]
    wanted = [{n: bits(a) for n, a in everything(f).items()} for f in frames_]
    start = Barrier(8)

    def work(i: int) -> bool:
        start.wait()
        return all(
            {n: bits(a) for n, a in everything(frames_[(i + j) % 4]).items()} == wanted[(i + j) % 4] for j in range(8)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_the_choice_of_kernels_belongs_to_its_thread() -> None:
    """``using`` in one thread does not change what another one runs."""
    inside, outside = Barrier(2), Barrier(2)

    def forced() -> str:
        with kernels.using("reference"):
            inside.wait()
            outside.wait()
            return kernels.of(np.ones((2, 2))).__name__

    def free() -> str:
        inside.wait()
        name = kernels.of(np.ones((2, 2))).__name__
        outside.wait()
        return name

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.submit(forced), pool.submit(free)
        assert a.result() == "pymoe.kernels.reference"
        assert b.result() == kernels.of(np.ones((2, 2))).__name__


HASH = """
import hashlib, json
import numpy as np
from pymoe import kernels, moe, presets
from pymoe.backend import tree

found = {}
for name, k in (("mixtral", 2), ("deepseek_v3", 4), ("gshard", 2)):
    cfg = presets.PRESETS[name](d_model=40, d_ff=36, n_experts=8, k=k)
    rng = np.random.default_rng(5)
    p = tree.map(lambda a: a.astype(np.float32), moe.init(rng, cfg))
    x, dy = (rng.standard_normal((700, 40)).astype(np.float32) for _ in range(2))
    out, cache = moe.forward(x, p, cfg)
    dx, dp = moe.backward(dy, cache, {"balance": 0.5})
    every = [out.y, out.routing.idx, out.routing.weight, dx, *tree.flatten(dp).values()]
    found[name] = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in every)).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.skipif(not kernels.compiled(), reason="the Cython kernels are not built")
def test_one_to_four_openmp_threads_give_the_same_bits() -> None:
    """BLAS at one thread: what is left is pymoe's own kernels."""
    found = []
    for threads in ("1", "2", "3", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1", "PYMOE_KERNELS": "cython"}
        done = subprocess.run(
            [sys.executable, "-c", HASH], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        found.append(json.loads(done.stdout))
    assert len(found[0]) == 3 and all(len(h) == 2 * hashlib.sha256().digest_size for h in found[0].values())
    assert found[1:] == found[:1] * 3
