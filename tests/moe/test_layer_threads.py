"""Eight Python threads in one layer, and the compiled kernels over one to four OpenMP threads: the same bits."""

from __future__ import annotations

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


@pytest.mark.skipif(not kernels.compiled(), reason="the Cython kernels are not built")
@pytest.mark.parametrize("preset", ["mixtral", "deepseek_v3", "gshard", "noisy_topk", "expert_choice"])
def test_one_to_four_openmp_threads_give_the_same_bits(preset: str) -> None:
    """BLAS at one thread (conftest): what is left is pymoe's own kernels, forced to use the threads they are told."""
    from pymoe.kernels import parallel

    f = make(presets.PRESETS[preset](d_model=24, d_ff=20, n_experts=8, k=2), 301).astype(np.float32)
    found = []
    with kernels.using("cython"):
        for threads in (1, 2, 3, 4):
            with parallel.exactly(threads):
                assert parallel.threads(10) == threads
                found.append({n: bits(a) for n, a in everything(f).items()})
    assert found[1:] == found[:1] * 3
