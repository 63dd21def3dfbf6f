"""Every kernel compiles for sm_80 (A100), sm_90 (H100, H200) and sm_100 (B200), through NVRTC and through nvcc.

No device and no driver needed.  NVRTC: ``pip install -e '.[nvrtc]'`` (nvidia-cuda-nvrtc, cuda-core); nvcc: a toolkit.
What is checked is the machine code: it has an entry for each instance that ``pymoe.kernels.cuda`` can ask for.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from pymoe.kernels import cuda_launch

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
STORES_OF_FLOAT_ATOMICS = (b"red.", b"atom.")


def by_nvcc(source: str, arch: str, folder: Path, form: str = "cubin") -> tuple[bytes, set[str]]:
    """(code, instances in it).  A host table of addresses asks nvcc for every instance."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on this machine")
    table = "\nvoid* instances[] = {" + ", ".join(f"(void*)&{name}" for name in cuda_launch.INSTANCES) + "};\n"
    given, made = folder / "kernels.cu", folder / f"kernels.{form}"
    given.write_text(source + table)
    at = arch if form == "cubin" else arch.replace("sm_", "compute_")
    command = ["nvcc", *cuda_launch.OPTIONS, f"-arch={at}", f"-{form}", str(given), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    code = made.read_bytes()
    return code, {name for name in cuda_launch.INSTANCES if mangled(name).encode() in code}


def by_nvrtc(source: str, arch: str, folder: Path) -> tuple[bytes, set[str]]:
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        pytest.skip("no cuda-core: pip install -e '.[nvrtc]'")
    from cuda.core import Program, ProgramOptions

    try:
        program = Program(source, "c++", ProgramOptions(arch=arch, std="c++17"))
    except Exception as missing:  # the library itself is another package; its loader has its own exception type
        if "nvrtc" in str(missing).lower():
            pytest.skip(f"no NVRTC library: pip install -e '.[nvrtc]' ({missing})")
        raise
    made = program.compile("cubin", name_expressions=cuda_launch.INSTANCES)
    symbols = {k: v if isinstance(v, bytes) else v.encode() for k, v in made.symbol_mapping.items()}
    return made.code, {name for name, symbol in symbols.items() if symbol in made.code}


def mangled(instance: str) -> str:
    """The start of the Itanium name of an instance: "topk<float>" -> "_Z4topkIfE"."""
    name, _, rest = instance.partition("<")
    letters = {"float": "f", "double": "d", "int": "i", "i64": "x", "true": "Lb1E", "false": "Lb0E"}
    kinds = [letters.get(t, f"{len(t)}{t}") for t in rest.rstrip(">").split(", ")]
    return f"_Z{len(name)}{name}I{''.join(kinds)}E"


COMPILERS = {"nvcc": by_nvcc, "nvrtc": by_nvrtc}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiles(compiler: str, arch: str, tmp_path: Path) -> None:
    code, instances = COMPILERS[compiler](cuda_launch.source(), arch, tmp_path)
    assert code[:4] == b"\x7fELF"
    assert instances == set(cuda_launch.INSTANCES)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_an_error_in_a_kernel_is_seen(compiler: str, tmp_path: Path) -> None:
    """Negative control: wrong source does not pass, and the message names the file."""
    source = cuda_launch.source().replace("sum = warp_sum(sum);", "sum = warp_sums(sum);")
    with pytest.raises(Exception, match=r"movement\.cu"):
        COMPILERS[compiler](source, "sm_90", tmp_path)


def test_no_atomics_in_the_machine_code(tmp_path: Path) -> None:
    """Run-to-run determinism: no instance holds an atomic or a reduction to memory."""
    ptx, _ = by_nvcc(cuda_launch.source(), "sm_90", tmp_path, "ptx")
    assert not [word for word in STORES_OF_FLOAT_ATOMICS if word in ptx]
    faulty = cuda_launch.source().replace("if (lane == 0) dweight[pair] = sum;", "atomicAdd(dweight + pair, sum);")
    ptx, _ = by_nvcc(faulty, "sm_90", tmp_path, "ptx")
    assert [word for word in STORES_OF_FLOAT_ATOMICS if word in ptx]
