"""Other builds: no compiler, no OpenMP, baseline SIMD, checked indices, sanitisers.  Each is made in a scratch copy.

The copy is what the source distribution holds, so that nothing here touches or depends on the installed extension.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.test_threads import digest

ROOT = Path(__file__).resolve().parents[2]
SUITE = [f"test_{name}.py" for name in ("twins", "bad_input", "topk", "exp", "norm", "csr", "bsr", "nm", "prune")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="runs in a source tree"),
    pytest.mark.skipif(importlib.util.find_spec("Cython") is None, reason="Cython is not installed"),
]


def copy(to: Path) -> Path:
    """The source tree, without what was built."""
    names = ["setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "csrc", "pymoe", "tests"]
    for name in names:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, to / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyd"))
        elif path.exists():
            shutil.copy(path, to / name)
    return to


def run(where: Path, *command: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "LDFLAGS") and not k.startswith("PYMOE_")}
    env = {**clean, "PYTHONPATH": str(where), "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", **environ}
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, timeout=800)
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


def build(where: Path, **environ: str) -> str:
    done = run(where, sys.executable, "setup.py", "build_ext", "--inplace", **environ)
    return done.stdout + done.stderr


def digests(where: Path, **environ: str) -> dict:
    return json.loads(run(where, sys.executable, "-m", "tests.kernels.digest", **environ).stdout)


def suite(where: Path, **environ: str) -> str:
    """The kernel tests against the build in ``where``."""
    tests = [str(where / "tests" / "kernels" / name) for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    return run(where, *command, **environ).stdout


def here() -> dict[str, str]:
    return {dtype: digest(dtype) for dtype in ("f4", "f8", "c16", "g")}


def which_kernels(where: Path) -> str:
    code = "import pymoe.kernels as k, numpy as np; print(k.compiled(), k.of(np.ones(2)).softmax(np.ones((1, 2))))"
    return run(where, sys.executable, "-c", code).stdout.strip()


def test_without_a_compiler_the_build_succeeds_and_numpy_computes(tmp_path):
    said = build(copy(tmp_path), CC="/bin/false")
    assert "NOT built" in said and "NumPy kernels" in said and "apt install" in said
    assert not list(tmp_path.glob("pymoe/kernels/*.so"))
    assert which_kernels(tmp_path) == "False [[0.5 0.5]]"


def test_without_a_compiler_pip_install_succeeds(tmp_path):
    target = tmp_path / "target"
    source = tmp_path / "source"
    source.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target", str(target), "."]
    run(copy(source), *pip, CC="/bin/false")
    assert (target / "pymoe" / "kernels" / "reference.py").exists()
    assert which_kernels(target) == "False [[0.5 0.5]]"


def test_a_required_extension_that_cannot_be_built_is_an_error(tmp_path):
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = run(copy(tmp_path), *command, check=False, CC="/bin/false", PYMOE_REQUIRE_EXTENSION="1")
    assert done.returncode != 0


def test_without_openmp_the_kernels_are_serial_and_give_the_same_bits(tmp_path):
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\ncase " $* " in *" -fopenmp "*) echo "no OpenMP" >&2; exit 1;; esac\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    source = tmp_path / "source"
    source.mkdir()
    said = build(copy(source), CC=str(wrapper), PYMOE_REQUIRE_EXTENSION="1")
    assert "no OpenMP" in said
    found = digests(source)
    assert (found["build"]["openmp"], found["build"]["threads"]) == (False, 1)
    assert found["hashes"] == here()


def test_the_simd_level_changes_no_bit(tmp_path):
    said = build(copy(tmp_path), PYMOE_SIMD="baseline", PYMOE_REQUIRE_EXTENSION="1")
    assert "NOT built" not in said
    found = digests(tmp_path)
    assert found["build"]["simd"] == "baseline" and found["hashes"] == here()


def test_checked_build_passes_the_suite_and_sees_a_bad_index(tmp_path):
    build(copy(tmp_path), PYMOE_DEBUG_BUILD="1", PYMOE_REQUIRE_EXTENSION="1", PYMOE_SIMD="baseline")
    assert "failed" not in suite(tmp_path)
    bad = (
        "import numpy as np; from pymoe.kernels.parallel import compiled\n"
        "try: compiled.place(np.array([5]), np.zeros(2, dtype=np.int64), np.zeros(1, dtype=np.int64))\n"
        "except IndexError: print('seen')"
    )
    assert run(tmp_path, sys.executable, "-c", bad).stdout == "seen\n"
    bad = (
        "import numpy as np; from pymoe.kernels.parallel import compiled\n"
        "compiled.combine['double'](np.ones((2, 3)), None, np.array([[7]]), np.ones((1, 3)), 1)"
    )
    done = run(tmp_path, sys.executable, "-c", bad, check=False)
    assert done.returncode != 0 and "r < n does not hold" in done.stderr


def sanitiser(name: str) -> str | None:
    """The path of a sanitiser's library, if the compiler has it."""
    cc = shutil.which("gcc")
    if cc is None:
        return None
    path = subprocess.run([cc, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) and os.path.exists(path) else None


def test_address_and_undefined_behaviour_sanitisers(tmp_path):
    libraries = [sanitiser("libasan.so"), sanitiser("libubsan.so")]
    if None in libraries:
        pytest.skip("gcc's libasan and libubsan are not installed")
    flags = "-O1 -g -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    build(
        copy(tmp_path),
        CC="gcc",
        CFLAGS=flags,
        LDFLAGS="-fsanitize=address,undefined",
        PYMOE_SIMD="baseline",  # the choice of a clone runs before the sanitiser is ready
        PYMOE_REQUIRE_EXTENSION="1",
    )
    environ = {
        "LD_PRELOAD": " ".join(p for p in libraries if p),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:strict_init_order=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    out = suite(tmp_path, **environ)
    assert "passed" in out and "failed" not in out
    past_the_end = (  # the sanitiser must see what the suite says is absent
        "import numpy as np; from pymoe.kernels.parallel import compiled\n"
        "compiled.combine['double'](np.ones((2, 3)), None, np.array([[2]]), np.ones((1, 3)), 1)"
    )
    done = run(tmp_path, sys.executable, "-c", past_the_end, check=False, **environ)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr


# frames of the leaf loops and of _cython.pyx
OURS = ("_rows_", "_span_", "_blocks_", "_token_", "topk_row", "sum_segments_", "__pyx_")


def test_no_decision_on_uninitialised_memory(tmp_path):
    """valgrind reports CPython's own at exit, so look for frames of ours.  (Outputs left unwritten: test_twins.)"""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    build(copy(tmp_path), PYMOE_SIMD="baseline", PYMOE_REQUIRE_EXTENSION="1", CFLAGS="-g")
    command = ["valgrind", "--quiet", "--leak-check=no", sys.executable]
    environ = {"PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1"}
    said = run(tmp_path, *command, "-m", "tests.kernels.digest", **environ).stderr
    assert not any(frame in said for frame in OURS), said[:4000]
    unwritten = (
        "import numpy as np; from pymoe.kernels.parallel import compiled\n"
        "compiled.topk['long double'](np.empty((2, 40), dtype='g'), np.zeros((2, 3), dtype=np.int64), 1)"
    )
    assert "topk_row" in run(tmp_path, *command, "-c", unwritten, **environ).stderr


def test_the_c_library_is_the_one_the_clones_need():
    """target_clones needs ifunc, which only glibc has: a musl build must come out as baseline."""
    from pymoe.kernels import cython

    if ctypes.util.find_library("c") is None:
        assert cython.BUILD.simd == "baseline"
