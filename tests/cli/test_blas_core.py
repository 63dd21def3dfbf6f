"""The BLAS core type: chosen by the processor's flags, before NumPy, never over the user's choice."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pymoe.cli import blas_core
from tests.cli.runs import environment

FLAGS = "fma avx2 avx512f avx512dq avx512bw avx512vl avx512cd"


def cpuinfo(vendor: str, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: x\nflags\t\t: {flags}\nbugs\t\t:\n"


def test_amd_with_avx512_gets_the_avx512_kernels():
    assert blas_core.best(cpuinfo("AuthenticAMD", FLAGS)) == "SkylakeX"
    assert blas_core.best(cpuinfo("GenuineIntel", FLAGS)) is None  # OpenBLAS knows Intel's by itself
    assert blas_core.best("") is None


@pytest.mark.parametrize("flag", sorted(blas_core.AVX512))
def test_every_flag_is_needed(flag):
    assert blas_core.best(cpuinfo("AuthenticAMD", FLAGS.replace(flag, ""))) is None


def test_the_user_and_an_imported_numpy_come_first(monkeypatch):
    monkeypatch.setattr(blas_core, "wanted", lambda: "SkylakeX")
    assert blas_core.choose({"OPENBLAS_CORETYPE": "Haswell"}) is None
    assert "numpy" in sys.modules and blas_core.choose({}) is None
    monkeypatch.delitem(sys.modules, "numpy")
    chosen: dict[str, str] = {}
    assert blas_core.choose(chosen) == "SkylakeX" and chosen == {"OPENBLAS_CORETYPE": "SkylakeX"}


def test_no_command_module_imports_numpy_before_the_choice():
    program = (
        "import sys, pymoe, pymoe.cli, pymoe.cli.main, pymoe.cli.blas_core\n"
        "assert 'numpy' not in sys.modules, 'numpy came with the entry of the command'\n"
        "pymoe.cli.blas_core.wanted = lambda: 'Nehalem'\n"
        "pymoe.cli.main.main(['info'])\n"
    )
    env = environment()
    env.pop("OPENBLAS_CORETYPE", None)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "openblas" in done.stdout.lower() and "x86_64" in sys.version + subprocess.os.uname().machine:
        assert "core type Nehalem" in done.stdout  # the choice reached the library
