"""The CUDA kernels on the CPU: ``pymoe.kernels.cuda`` as it stands, its sources compiled by g++ with ``host_shim.h``.

``emulated()`` puts NumPy in CuPy's place and runs each launch thread by thread, with the grid, the arguments and the
order of operations that a device would get.  Outputs lie between guard values, so that a write outside is seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pymoe import kernels
from pymoe.kernels import cuda, cuda_door, cuda_launch, reference

GUARD = 64  # elements before and after each output
SHIM = Path(__file__).with_name("host_shim.h")
LETTERS = {"float32": "f", "float64": "d", "int64": "l", "int32": "i", "uint8": "u", "bool": "b"}
TAIL = """
static const std::vector<shim::Entry> table = {%s};
extern "C" const char* signature(int i) { return table[i].signature.c_str(); }
extern "C" const char* run(int i, void** args, unsigned x, unsigned y, unsigned threads) {
    shim::failure.clear();
    shim::run(table[i].call, args, {x, y, 1}, threads);
    return shim::failure.c_str();
}
"""


def compiler() -> str | None:
    return shutil.which("g++")


def build(folder: Path, source: str) -> ctypes.CDLL:
    """Compile ``source`` with every instance; kept by content in ``folder``."""
    entries = ",\n".join(f"ENTRY({name})" for name in cuda_launch.INSTANCES)
    text = f'#include "{SHIM}"\n{source}\n{TAIL % entries}'
    stem = folder / hashlib.sha256((text + SHIM.read_text()).encode()).hexdigest()[:16]
    library = stem.with_suffix(".so")
    if not library.exists():
        stem.with_suffix(".cpp").write_text(text)
        command = [str(compiler()), "-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, str(stem.with_suffix(".cpp")), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.signature.restype = loaded.run.restype = ctypes.c_char_p
    return loaded


class Host:
    """``launch`` of ``cuda_launch`` on the CPU; ``blocks`` caps the grid, so that threads take several elements."""

    def __init__(self, library: ctypes.CDLL, blocks: int | None = None) -> None:
        self._library, self._blocks = library, blocks
        self.launched: list[str] = []
        self._guarded: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        whole = np.full(size + 2 * GUARD, 0 if np.dtype(dtype) == bool else -77, dtype=dtype)
        self._guarded.append(whole)
        return whole[GUARD : GUARD + size].reshape(shape)

    def launch(self, instance: str, grid: cuda_launch.Grid, *args: Any) -> None:
        index = cuda_launch.INSTANCES.index(instance)
        given: list[str] = []
        values: list[Any] = []
        for a in args:
            if isinstance(a, np.ndarray):
                assert a.flags.c_contiguous
                ours = a.base is not None and any(a.base is whole for whole in self._guarded)
                given.append(("w" if ours else "r") + LETTERS[str(a.dtype)])
                values.append(ctypes.c_void_p(a.ctypes.data))
            elif isinstance(a, int):
                given.append("l")
                values.append(ctypes.c_longlong(a))
            else:
                given.append(LETTERS[str(a.dtype)])
                values.append({"f": ctypes.c_float, "d": ctypes.c_double}[given[-1]](a))
        wanted = self._library.signature(index).decode().rstrip(",").split(",")
        pairs = zip(given, wanted, strict=True)
        fits = len(given) == len(wanted) and all(g in (w, w.replace("r", "w")) for g, w in pairs)
        assert fits, f"{instance} takes {wanted}, got {given}"  # what may be written may also be read
        blocks, (threads,) = grid
        assert all(b > 0 for b in blocks) and threads % 32 == 0 and threads <= 1024
        x, y = (min(b, self._blocks or b) for b in (*blocks, 1)[:2])
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        failure = self._library.run(index, pointers, x, y, threads)
        assert not failure, f"{instance}: {failure.decode()}"
        for whole in self._guarded[-3:]:  # the outputs of this launch
            fill = 0 if whole.dtype == bool else -77
            outside = np.concatenate([whole[:GUARD], whole[-GUARD:]])
            assert (outside == fill).all(), f"{instance} wrote outside its output"
        self.launched.append(instance)


@contextlib.contextmanager
def emulated(host: Host) -> Iterator[Host]:
    """``pymoe.kernels.cuda`` on NumPy arrays: what it asks of CuPy, NumPy gives."""

    def argsort(a: np.ndarray) -> np.ndarray:
        return np.argsort(a, kind="stable")

    names = "int64 uint8 bool_ ascontiguousarray stack min max take searchsorted arange concatenate dot".split()
    stand_in = SimpleNamespace(**{n: getattr(np, n) for n in names}, argsort=argsort, empty=host.empty)

    def of(x: np.ndarray) -> Any:
        return cuda if str(x.dtype) in cuda_launch.TYPES or x.dtype.kind in "iu" else reference

    before = cuda_door.cupy, cuda_door.launch, kernels.of
    cuda_door.cupy, cuda_door.launch, kernels.of = (lambda: stand_in), host.launch, of
    try:
        yield host
    finally:
        cuda_door.cupy, cuda_door.launch, kernels.of = before
