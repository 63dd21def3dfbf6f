"""On a device: every kernel, op, preset and model against NumPy, forward and backward.  Run with ``pytest -m gpu``.

float64 within 1e-13 of the tensor's maximum, float32 within 64u of NumPy's float64 on the same float32 numbers; chosen
experts, kept places and loads equal.  Every result must be a CuPy array: nothing moves to the host on the way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import kernels
from pymoe.backend.errors import IndexRangeError
from pymoe.kernels import cuda, cuda_door, cuda_launch, reference

from ..strict.subjects import Subject, deviation, leaves, subjects
from .cases import cases

pytestmark = pytest.mark.gpu
TOLERANCE = {"float64": 1e-13, "float32": 64 * 2.0**-24}


@pytest.fixture(scope="module")
def cupy() -> Any:
    module = pytest.importorskip("cupy", reason="CuPy is not installed: pip install -e '.[cuda13]' (or cuda12)")
    if not module.cuda.is_available():
        pytest.skip("CuPy finds no device")
    return module


def rounded(a: np.ndarray, dtype: str) -> np.ndarray:
    """``a`` in ``dtype``, in the precision of ``dtype``."""
    return a.astype(dtype) if a.dtype.kind == "f" else a


def run_both(subject: Subject, dtype: str, cupy: Any, to: Any = None) -> tuple[Any, Any]:
    """(on the device, NumPy in float64 from the same rounded numbers)."""

    def to_device(a: np.ndarray) -> Any:
        return cupy.asarray(rounded(a, dtype))

    def to_double(a: np.ndarray) -> np.ndarray:
        return rounded(rounded(a, dtype), "float64")

    with np.errstate(invalid="ignore", divide="ignore"):
        return subject.run(to or to_device), subject.run(to_double)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("subject", subjects(), ids=lambda s: s.name.replace(" ", "-"))
def test_equals_numpy(subject: Subject, dtype: str, cupy: Any) -> None:
    got, want = run_both(subject, dtype, cupy)
    for path, leaf in leaves(got):
        if not isinstance(leaf, np.ndarray) or leaf.ndim:  # numbers may be Python's
            assert isinstance(leaf, cupy.ndarray), f"{path} became {type(leaf).__name__}"
    error, path = deviation(got, want)
    assert error <= TOLERANCE[dtype], f"{path}: {error:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_fault_is_seen(dtype: str, cupy: Any) -> None:
    """Negative control: one input off by 0.1 % on the device must fail the comparison above."""
    subject = next(s for s in subjects() if s.name == "layer mixtral plain")

    def tilted(a: np.ndarray) -> Any:
        return cupy.asarray(rounded(a, dtype) * (1.001 if a.ndim == 3 else 1))

    got, want = run_both(subject, dtype, cupy, tilted)
    assert deviation(got, want)[0] > TOLERANCE[dtype]


@pytest.mark.parametrize("subject", [s for s in subjects() if s.name[:5] in ("layer", "model")], ids=lambda s: s.name)
def test_same_bits_in_every_run(subject: Subject, cupy: Any) -> None:
    first, second = (list(leaves(subject.run(lambda a: cupy.asarray(rounded(a, "float32"))))) for _ in range(2))
    for (path, a), (_, b) in zip(first, second, strict=True):
        assert cupy.asnumpy(a).tobytes() == cupy.asnumpy(b).tobytes(), path


def test_the_cuda_kernels_are_the_ones_that_run(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    launch = cuda_launch.launch
    monkeypatch.setattr(
        cuda_door, "launch", lambda instance, *rest: launched.append(instance) or launch(instance, *rest)
    )
    for dtype in TOLERANCE:
        for kernel, args, keywords in cases(np.random.default_rng(1), dtype).values():
            given = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
            assert kernels.of(given[0]) is cuda
            getattr(cuda, kernel)(*given, **keywords)
    assert set(launched) == set(cuda_launch.INSTANCES)


def test_complex_numbers_run_on_the_definition_on_the_device(cupy: Any) -> None:
    z = cupy.asarray(np.random.default_rng(0).standard_normal((3, 5)) + 1j)
    assert kernels.of(z) is reference
    assert isinstance(kernels.of(z).softmax(z), cupy.ndarray)


def test_bad_index_is_refused(cupy: Any) -> None:
    with pytest.raises(IndexRangeError):
        cuda.gather(cupy.ones((3, 4)), cupy.asarray([0, 3]))


def test_large_offsets(cupy: Any) -> None:
    """More than 2³¹ elements: 64-bit indices throughout."""
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 24 << 30:
        pytest.skip("needs 24 GiB of device memory")
    rows = cupy.zeros(2_200_000, dtype=cupy.int64)
    rows[-1] = 1
    x = cupy.stack([cupy.zeros(1024, dtype=cupy.float32), cupy.arange(1024, dtype=cupy.float32)])
    out = cuda.gather(x, rows)
    assert bool((out[-1] == x[1]).all()) and not bool(out[-2].any())
