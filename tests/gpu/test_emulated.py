"""The arithmetic of every CUDA kernel and of its Python side, proven without a device (see host.py)."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.kernels import activations, cuda, cuda_launch, cuda_sparse, reference

from ..strict.subjects import Subject, deviation, subjects
from .cases import E, K, cases, names
from .host import Host, build, compiler, emulated

pytestmark = pytest.mark.skipif(compiler() is None, reason="no g++ to run the CUDA kernels on the CPU")
TOLERANCE = {"float64": 1e-13, "float32": 64 * 2.0**-24}
# CuPy's sort, cuBLAS, and elementwise code outside the sparse layer
NORMS = {"rms_norm", "rms_norm_backward"}
GROUPED = {"grouped_linear", "grouped_linear_dx", "grouped_linear_dw"}
NO_RAW_KERNEL = {"counting_sort", "rotate", "prune_mask"} | GROUPED | NORMS
ROUNDED = ("softmax", "adamw", "act", "glu", "weighted")  # kernels (first word) that are not exact on integers
LIBRARY = ("counting", "grouped", "rotate", "rms", "prune")

# One fault of 0.1 % or one place in each kernel: every case has to notice.
FAULTS = {
    "idx[t * k + j] = best_id;": "idx[t * k + j] = best_id - (j == 1);",
    "mask[i] = rank < n;": "mask[i] = rank <= n;",
    "inside ? x[row * d + c]": "inside ? T(1.001) * x[row * d + c]",
    "sum += WEIGHTED ? weight[t * k + j] * v : v;": "sum += T(1.001) * (WEIGHTED ? weight[t * k + j] * v : v);",
    "sum += dy[t * d + c] * ys[row * d + c];": "sum += T(1.001) * dy[t * d + c] * ys[row * d + c];",
    "found = v[t * k + j];": "found = T(1.001) * v[t * k + j];",
    "sum += x[r * d + c];": "sum += T(1.001) * x[r * d + c];",
    "out[i] = Act::f(x[i]);": "out[i] = T(1.001) * Act::f(x[i]);",
    "dx[i] = dh[i] * Act::df(x[i]);": "dx[i] = T(1.001) * dh[i] * Act::df(x[i]);",
    "h[r * f + c] = Act::f(": "h[r * f + c] = T(1.001) * Act::f(",
    "dx[r * 2 * f + f + c] = d * Act::f(g);": "dx[r * 2 * f + f + c] = T(1.001) * d * Act::f(g);",
    "dot += d * h;": "dot += T(1.001) * d * h;",
    "out[c] = out[c] / sum;": "out[c] = T(1.001) * out[c] / sum;",
    "(dp[r * columns + c] - dot);": "(dp[r * columns + c] - T(1.001) * dot);",
    "T second = beta2 * v[i]": "T second = T(1.001) * beta2 * v[i]",
    "sum += x[t * d + first + b] *": "sum += T(1.001) * x[t * d + first + b] *",
    "sum += from[a] * data": "sum += T(1.001) * from[a] * data",
    "sum += dy[t * f + row[e] * r + a] *": "sum += T(1.001) * dy[t * f + row[e] * r + a] *",
    "i64 column = q / n * m + position": "i64 column = (q + 1) / n * m + position",
    "if (position[i * s + q] == j % m) sum += dy": "if (position[i * s + q] == j % m) sum += T(1.001) * dy",
    "sum += dy[t * f + i] * x": "sum += T(1.001) * dy[t * f + i] * x",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_host")


@pytest.fixture(scope="session")
def library(folder: Path) -> Any:
    return build(folder, cuda_launch.source())


@pytest.fixture(scope="session")
def faulty(folder: Path) -> Any:
    source = cuda_launch.source()
    for right, wrong in FAULTS.items():
        assert right in source, f"the fault {right!r} finds no place: keep the list up to date"
        source = source.replace(right, wrong)
    return build(folder, source)


def tuple_of(result: Any) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def error(got: Any, want: Any) -> float:
    """The largest deviation over the tensors, each relative to the largest finite value of what it should be."""
    worst = 0.0
    for g, w in zip(tuple_of(got), tuple_of(want), strict=True):
        if g.shape != w.shape or g.dtype != w.dtype:
            return np.inf
        if w.dtype.kind != "f":
            worst = max(worst, float(np.inf if (g != w).any() else 0))
            continue
        if (np.isnan(g) != np.isnan(w)).any():
            return np.inf
        scale = np.max(np.abs(w), where=np.isfinite(w), initial=0) or 1.0
        worst = max(worst, float(np.max(np.abs(np.nan_to_num(g) - np.nan_to_num(w)), initial=0) / scale))
    return worst


def definition(kernel: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    with np.errstate(invalid="ignore"):
        return getattr(reference, kernel)(*args, **keywords)


def test_every_kernel_has_a_case() -> None:
    covered = {kernel for kernel, _, _ in cases(np.random.default_rng(0), np.float64).values()}
    assert set(cuda.__all__) == set(reference.__all__) == covered
    assert set(cuda_launch.FUNCTORS) == set(activations.ACTIVATIONS)


@pytest.mark.parametrize("blocks", [None, 2], ids=["own grid", "2 blocks"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", names())
def test_equals_the_definition(case: str, dtype: str, blocks: int | None, library: Any) -> None:
    kernel, args, keywords = cases(np.random.default_rng(7), dtype)[case]
    with emulated(Host(library, blocks)) as host:
        got = getattr(cuda, kernel)(*args, **keywords)
    assert bool(host.launched) == (kernel not in NO_RAW_KERNEL and case != "topk_sort"), "which kernel ran?"
    assert error(got, definition(kernel, args, keywords)) <= TOLERANCE[dtype]


WHOLE = [s for s in subjects() if s.name[:5] in ("layer", "model")]


@pytest.mark.parametrize("subject", WHOLE, ids=lambda s: s.name.replace(" ", "-"))
def test_layers_and_models_on_the_cuda_kernels(subject: Subject, library: Any) -> None:
    """Forward and backward with every kernel call going through ``pymoe.kernels.cuda``."""
    with np.errstate(invalid="ignore"):
        want = subject.run(lambda a: a)
        with emulated(Host(library)) as host:
            got = subject.run(lambda a: a)
    used = {name.split("<")[0] for name in host.launched}
    form = subject.name.rsplit(" ", 1)[-1]
    sparse = {"csr": "bsr_linear", "bsr": "bsr_linear", "nm": "nm_linear"}.get(form)
    looked_up = "hash_layer" in subject.name  # in a table: nobody is ranked
    assert ({"gather", "combine"} if looked_up else {"topk", "gather", "combine"}) <= used
    assert sparse is None or {sparse, f"{sparse}_dx", f"{sparse}_ddata"} <= used
    off, path = deviation(got, want)
    assert off <= 1e-13, f"{path}: {off:.1e}"


def test_the_cases_launch_every_instance(library: Any) -> None:
    with emulated(Host(library)) as host:
        for dtype in TOLERANCE:
            for kernel, args, keywords in cases(np.random.default_rng(7), dtype).values():
                getattr(cuda, kernel)(*args, **keywords)
    assert set(host.launched) == set(cuda_launch.INSTANCES)


@pytest.mark.parametrize("case", [n for n in names() if n.split("_")[0] not in ROUNDED])
def test_bitwise_on_integers(case: str, library: Any) -> None:
    kernel, args, keywords = cases(np.random.default_rng(8), "float32", integers=True)[case]
    with emulated(Host(library)):
        got = getattr(cuda, kernel)(*args, **keywords)
    assert error(got, definition(kernel, args, keywords)) == 0


@pytest.mark.parametrize("case", [n for n in names() if n.split("_")[0] not in LIBRARY and n != "topk_sort"])
def test_a_fault_is_seen(case: str, faulty: Any) -> None:
    """Negative control: each kernel with a fault of 0.1 % (or one wrong decision) must fail its case."""
    kernel, args, keywords = cases(np.random.default_rng(7), "float64")[case]
    with emulated(Host(faulty)):
        got = getattr(cuda, kernel)(*args, **keywords)
    assert error(got, definition(kernel, args, keywords)) > 1e-4


def test_not_contiguous_and_mixed_dtypes(library: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(7, 22))[::-1, ::2]
    rows = np.array([0, 6, 6, 2, 9, 9, 9, 1])[::2][:3] % 7
    with emulated(Host(library)) as host:
        assert error(cuda.gather(x, rows), reference.gather(x, rows)) == 0
        assert host.launched == ["gather<double>"]
        slot = np.array([[0, -1], [1, 0]])
        ys, weight = rng.normal(size=(2, 5)), rng.normal(size=(2, 2)).astype(np.float32)
        assert error(cuda.combine(ys, weight, slot), reference.combine(ys, weight, slot)) == 0  # mixed: the definition
        z = rng.normal(size=(2, 5)) + 1j
        assert error(cuda.softmax(z).real, reference.softmax(z).real) == 0
        assert host.launched == ["gather<double>"]


def test_empty_arrays(library: Any) -> None:
    none, ids = np.empty((0, 5)), np.empty((0,), dtype=np.int64)
    with emulated(Host(library)) as host:
        assert cuda.gather(np.ones((3, 5)), ids).shape == (0, 5)
        assert cuda.combine(none, None, np.full((3, K), -1)).shape == (3, 5)
        assert cuda.topk(np.empty((0, E)), K).shape == (0, K)
        assert cuda.softmax(none).shape == (0, 5)
        assert (cuda.segment_sum(none, np.zeros(E + 1, dtype=np.int64)) == 0).all()
        assert (cuda.grouped_linear_dw(none, none, np.zeros(E + 1, dtype=np.int64)) == 0).all()
        assert [a.tolist() for a in cuda.counting_sort(ids, 2)] == [[], [0, 0, 0]]
        zeros = np.zeros(4, dtype=np.int64)
        assert not cuda.csr_linear(np.ones((2, 5)), np.empty(0), ids, zeros).any()
        assert cuda.csr_linear_dx(np.ones((2, 3)), np.empty(0), ids, zeros, 5).shape == (2, 5)
        assert cuda.csr_linear_ddata(np.ones((2, 3)), np.ones((2, 5)), ids, zeros).shape == (0,)
        assert cuda.bsr_linear_ddata(np.ones((2, 6)), np.ones((2, 5)), ids, zeros, (2, 5)).shape == (0, 2, 5)
        assert not cuda.nm_linear(np.ones((2, 4)), np.empty((3, 0)), np.empty((3, 0), np.uint8), 4).any()
        assert cuda.nm_linear(np.empty((0, 4)), np.ones((3, 1)), np.zeros((3, 1), np.uint8), 4).shape == (0, 3)
        assert not host.launched


def test_refuses_what_the_definition_refuses(library: Any) -> None:
    x, rows, start = np.ones((4, 6)), np.array([0, 4]), np.array([0, 3, 2, 4])
    refused = [
        (IndexRangeError, cuda.gather, (x, rows)),
        (IndexRangeError, cuda.gather, (x, np.array([-1]))),
        (IndexRangeError, cuda.combine, (x, None, np.array([[4]]))),
        (IndexRangeError, cuda.combine_dweight, (np.ones((1, 6)), x, np.array([[-2]]))),
        (IndexRangeError, cuda.counting_sort, (np.array([0, 3]), 3)),
        (IndexRangeError, cuda.counting_sort, (np.array([0, -2]), 3)),
        (IndexRangeError, cuda.expand, (np.ones((1, 2)), np.array([[0, 3]]), 3)),
        (DtypeError, cuda.gather, (x, np.array([0.0, 1.0]))),
        (DtypeError, cuda.act_forward, (np.ones((2, 2), dtype=np.int64), "silu")),
        (ShapeError, cuda.segment_sum, (x, start)),
        (ShapeError, cuda.grouped_linear, (x, np.ones((3, 2, 6)), start)),
        (ShapeError, cuda.grouped_linear, (x, np.ones((1, 2, 5)), np.array([0, 4]))),
        (ShapeError, cuda.combine, (x, np.ones((2, 2)), np.array([[1]]))),
        (ShapeError, cuda.glu_forward, (np.ones((2, 3)), "silu")),
        (ConfigError, cuda.glu_forward, (x, "swish")),
        (ConfigError, cuda.topk, (x, 7)),
        (ConfigError, cuda.nm_mask, (x, 2, 4)),
        (IndexRangeError, cuda.csr_linear, (x, np.ones(2), np.array([0, 6]), np.array([0, 2]))),
        (ShapeError, cuda.csr_linear, (x, np.ones(2), np.array([1, 1]), np.array([0, 2]))),
        (ShapeError, cuda.csr_linear_dx, (x, np.ones(2), np.array([0, 1]), np.array([0, 2]), 6)),
        (ShapeError, cuda.csr_linear_ddata, (x, x, np.array([0, 1]), np.array([0, 2]))),
        (ShapeError, cuda.bsr_linear, (x, np.ones((1, 1, 4)), np.array([0]), np.array([0, 1]))),
        (IndexRangeError, cuda.bsr_linear, (x, np.ones((1, 2, 3)), np.array([2]), np.array([0, 1]))),
        (DtypeError, cuda.bsr_linear_dx, (x, np.ones((1, 6, 3)), np.array([0.0]), np.array([0, 1]), 6)),
        (ShapeError, cuda.bsr_linear_ddata, (x, x, np.array([0]), np.array([0, 2]), (6, 3))),
        (ConfigError, cuda.nm_linear, (x, np.ones((2, 2)), np.array([[0, 1], [0, 1]]), 4)),
        (ShapeError, cuda.nm_linear, (x, np.ones((1, 4)), np.array([[1, 0, 0, 1]]), 3)),
        (IndexRangeError, cuda.nm_linear_dx, (np.ones((4, 1)), np.ones((1, 2)), np.array([[0, 3]]), 3, 6)),
        (ShapeError, cuda.nm_linear_ddata, (x, x, np.array([[0, 1]]), 3)),
    ]
    for expected, kernel, args in refused:
        with emulated(Host(library)) as host, pytest.raises(expected):
            kernel(*args)
        assert not host.launched


def test_bounds_are_read_once_for_each_array(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    count = cuda_launch.OncePerArray(lambda a: reads.append(1) or [int(v) for v in a])
    monkeypatch.setattr(cuda, "_offsets", count)
    start = np.array([0, 1, 3])
    with emulated(Host(library)):
        for _ in range(3):
            cuda.grouped_linear(np.ones((3, 4)), np.ones((2, 5, 4)), start)
    assert len(reads) == 1 and len(count) == 1
    del start
    gc.collect()
    assert len(count) == 0  # nothing outlives the array


def test_an_index_overwritten_after_its_check_cannot_reach_memory(library: Any) -> None:
    rows = np.array([0, 1])
    with emulated(Host(library)):
        cuda.gather(np.ones((2, 3)), rows)
        rows[1] = 10**12
        assert np.isnan(cuda.gather(np.ones((2, 3)), rows)[1]).all()


def test_a_structure_is_checked_once_and_forgotten_with_its_arrays(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    for name, read in (("_in_order", cuda_sparse._read_structure), ("_columns", cuda_sparse._read_columns)):
        once = cuda_launch.OncePerArray(lambda *a, name=name, read=read, **k: reads.append(name) or read(*a, **k))
        monkeypatch.setattr(cuda_sparse, name, once)
    indices, indptr, other = np.array([0, 2, 1]), np.array([0, 2, 3]), np.array([0, 3, 3])
    with emulated(Host(library)):
        for _ in range(3):
            cuda.csr_linear(np.ones((4, 3)), np.ones(3), indices, indptr)
            cuda.csr_linear_dx(np.ones((4, 2)), np.ones(3), indices, indptr, 3)
        assert reads == ["_in_order", "_columns"]
        with pytest.raises(ShapeError):  # the same columns under other offsets are another structure
            cuda.csr_linear(np.ones((4, 3)), np.ones(3), indices, other)
        with pytest.raises(IndexRangeError):  # and so they are in a narrower weight
            cuda.csr_linear(np.ones((4, 2)), np.ones(3), indices, indptr)
    del indices
    gc.collect()
    assert not len(cuda_sparse._in_order) and not len(cuda_sparse._columns)


def test_a_structure_overwritten_after_its_check_cannot_reach_memory(library: Any) -> None:
    indices, indptr, position = np.array([0, 1]), np.array([0, 2]), np.zeros((1, 1), np.uint8)
    with emulated(Host(library)):
        cuda.csr_linear(np.ones((2, 3)), np.ones(2), indices, indptr)
        cuda.nm_linear(np.ones((2, 3)), np.ones((1, 1)), position, 3)
        indices[1], indptr[1], position[0, 0] = 10**12, 10**12, 255
        assert np.isnan(cuda.csr_linear(np.ones((2, 3)), np.ones(2), indices, indptr)).all()
        assert np.isnan(cuda.csr_linear_ddata(np.ones((2, 1)), np.ones((2, 3)), indices, indptr)).tolist() == [0, 1]
        assert np.isnan(cuda.nm_linear(np.ones((2, 3)), np.ones((1, 1)), position, 3)).all()
        assert np.isnan(cuda.nm_linear_ddata(np.ones((2, 1)), np.ones((2, 3)), position, 3)).all()


def test_what_no_raw_sparse_kernel_takes(library: Any) -> None:
    rng = np.random.default_rng(2)
    x, wide = rng.normal(size=(3, 600)), np.array([[299, 1]])
    indices, indptr = np.array([0, 5]), np.array([0, 1, 2])
    with emulated(Host(library)) as host:
        assert (
            error(cuda.nm_linear(x, np.ones((1, 2)), wide, 300), reference.nm_linear(x, np.ones((1, 2)), wide, 300))
            == 0
        )
        y = cuda.csr_linear(x + 0j, np.ones(2) + 0j, indices, indptr)
        assert np.array_equal(y, (x + 0j)[:, [0, 5]])
        assert np.array_equal(cuda.csr_linear(x, np.ones(2, np.float32), indices, indptr), x[:, [0, 5]])
        assert not host.launched


def test_a_lane_missing_at_a_shuffle_is_seen(folder: Path) -> None:
    """Negative control of the emulator: a warp whose lanes diverge before a shuffle is an error, not a number."""
    source = cuda_launch.source()
    right = "        sum = warp_sum(sum);\n        if (sum == T(0)) sum = T(1);"
    assert right in source
    library = build(folder, source.replace(right, right.replace("sum = warp_sum", "if (lane < 7) sum = warp_sum")))
    with emulated(Host(library)), pytest.raises(AssertionError, match="did not reach"):
        cuda.softmax(np.ones((2, 5)))


def test_importing_pymoe_does_not_import_cupy() -> None:
    import subprocess
    import sys

    code = "import sys, pymoe.kernels, pymoe.kernels.cuda; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not cuda.supports(np.ones(2))
