"""The number of threads changes no bit; eight Python threads may call at once; a forked child never hangs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError
from pymoe.kernels import cython, parallel
from tests.kernels.cases import DTYPES, bits, calls

NOT_OURS = ("grouped_linear", "grouped_linear_dx", "grouped_linear_dw")  # BLAS's threads, not these


def digest(dtype: str, scale: int = 1) -> str:
    """One hash over every bit of every kernel's output."""
    h = hashlib.sha256()
    for call in calls(dtype, seed=2, scale=scale):
        if call.name not in NOT_OURS:
            h.update(repr(bits(getattr(cython, call.name)(*call.args, **call.kwargs))).encode())
    return h.hexdigest()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(dtype):
    with parallel.exactly(1):
        want = digest(dtype)
    for n in (2, 3, 4, 8):
        with parallel.exactly(n):
            assert digest(dtype) == want, n


def test_more_threads_than_rows():
    x = np.arange(6.0).reshape(2, 3)
    with parallel.exactly(8):
        np.testing.assert_array_equal(cython.gather(x, np.array([1])), x[1:])
        np.testing.assert_array_equal(cython.segment_sum(x, np.array([0, 2])), x.sum(0, keepdims=True))


def test_the_digest_sees_one_bit():
    call = calls("f4")[7]
    out = cython.combine(*call.args)
    spoilt = out.copy()
    spoilt.view(np.uint32)[3, 5] ^= 1
    assert bits(spoilt) != bits(out)


@pytest.mark.parametrize("inner", [1, 2])
def test_eight_python_threads_at_once(inner):
    want = {dtype: digest(dtype) for dtype in ("f4", "f8")}
    wrong: list[str] = []
    barrier = threading.Barrier(8)

    def work(dtype: str) -> None:
        barrier.wait()
        with parallel.exactly(inner):
            for _ in range(3):
                if digest(dtype) != want[dtype]:
                    wrong.append(dtype)

    pool = [threading.Thread(target=work, args=(("f4", "f8")[i % 2],)) for i in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not wrong


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of fork with threads: that is the subject
import numpy as np
from pymoe.kernels import cython, parallel
x = np.random.default_rng(0).standard_normal((512, 300)).astype(np.float32)
with parallel.exactly(4):
    parent = cython.softmax(x)
    child = os.fork()
    if child == 0:
        ok = np.array_equal(cython.softmax(x), parent) and parallel.threads(1 << 40) == parallel.max_threads() == 1
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if np.array_equal(cython.softmax(x), parent) else 1)
        ok = ok and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if ok else 1)
    status = os.waitpid(child, 0)[1]
    again = cython.softmax(x)
sys.exit(0 if status == 0 and np.array_equal(again, parent) and parallel.threads(1 << 40) >= 1 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_on_one_thread_and_does_not_hang():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


POLICY = """
import os
before = dict(os.environ)
from pymoe.kernels import parallel
assert dict(os.environ) == before
print(parallel.max_threads(), parallel.threads(1), parallel.threads(1 << 40))
"""


@pytest.mark.parametrize("asked", ["1", "2", "64"])
def test_omp_num_threads_is_the_most_and_cores_bound_it(asked):
    environ = {**os.environ, "OMP_NUM_THREADS": asked}
    out = subprocess.run([sys.executable, "-c", POLICY], env=environ, capture_output=True, text=True, check=True)
    cores = len(os.sched_getaffinity(0))
    want = min(int(asked), cores) if cython.BUILD.openmp else 1
    assert out.stdout.split() == [str(want), "1", str(want)]


def test_exactly_refuses_zero():
    with pytest.raises(ConfigError, match="at least 1"), parallel.exactly(0):
        pass


def test_build_says_what_runs():
    build = parallel.build()
    assert build.simd in ("x86-64-v4", "x86-64-v3", "baseline") and build.threads >= 1
    assert isinstance(build.openmp, bool) and cython.BUILD.simd == build.simd
