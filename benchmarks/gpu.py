"""The MoE layer on a GPU: its time over the time of its matrix products alone, forward and forward + backward.

    python benchmarks/gpu.py                    all shapes, float32, on CuPy's current device
    python benchmarks/gpu.py --shape 2048 1024 512 64 8 --dtype float64
    python benchmarks/gpu.py --numpy --shape 64 32 48 8 2      the same on the CPU, to try the script

Two floors, both measured in turns with the layer (medians of ``--runs``): "grouped" is the layer's own products, one
call for each expert and direction; "dense" is the same flops as two (with backward six) products of all rows at once,
what a perfect grouped product would reach.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pymoe import kernels, moe, presets
from pymoe.backend import tree

SHAPES = (  # T, D, F, E, K
    (2048, 1024, 512, 64, 8),
    (2048, 1024, 3584, 8, 2),
    (4096, 256, 64, 256, 8),
    (16384, 2048, 1024, 64, 8),
    (64, 1024, 512, 64, 8),
    (1, 1024, 512, 64, 8),
)


class NumPyClock:
    """What the benchmark asks of a device, on the CPU."""

    name = "NumPy on the CPU"
    asarray = staticmethod(np.asarray)

    def seconds(self, f: Callable[[], Any]) -> float:
        before = time.perf_counter()
        f()
        return time.perf_counter() - before


class CuPyClock:
    """Time between two events of the current stream, so that the host's waiting is counted and its own work is not."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self.asarray = cupy.asarray
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
        self.name = f"{properties['name'].decode()}, CuPy {cupy.__version__}, CUDA runtime {runtime}, driver {driver}"

    def seconds(self, f: Callable[[], Any]) -> float:
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        start.record()
        f()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3


def medians(clock: Any, runs: int, jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each job, all jobs in turns, after two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(runs + 2):
        for name, job in jobs.items():
            seconds = clock.seconds(job)
            if round_ >= 2:
                times[name].append(seconds)
    return {name: statistics.median(t) for name, t in times.items()}


def measure(clock: Any, shape: tuple[int, ...], dtype: str, runs: int) -> None:
    t, d, f, e, k = shape
    rng = np.random.default_rng(0)
    cfg = presets.olmoe(d_model=d, d_ff=f, n_experts=e, k=k)
    p = tree.map(clock.asarray, moe.init(rng, cfg, np.dtype(dtype)))
    x, dy = (clock.asarray(rng.standard_normal((t, d)).astype(dtype)) for _ in range(2))
    cotangents = {"balance": 0.01}
    cache = moe.forward(x, p, cfg)[1]
    start, n = cache.experts.plan.start, t * k
    rows, hidden, wide = (clock.asarray(rng.standard_normal((n, w)).astype(dtype)) for w in (d, f, 2 * f))
    up, down = p["experts"]["gate_up_proj"], p["experts"]["down_proj"]
    run = kernels.of(x)

    def grouped(backward: bool) -> None:
        run.grouped_linear(rows, up, start)
        run.grouped_linear(hidden, down, start)
        if backward:
            run.grouped_linear_dx(rows, down, start)
            run.grouped_linear_dx(wide, up, start)
            run.grouped_linear_dw(rows, hidden, start)
            run.grouped_linear_dw(wide, rows, start)

    def dense(backward: bool) -> None:
        one, two = up[0, :, :], down[0, :, :]
        _ = rows @ one.T, hidden @ two.T
        if backward:
            _ = rows @ two, wide @ one, rows.T @ hidden, wide.T @ rows

    def layer(backward: bool) -> None:
        _, cache = moe.forward(x, p, cfg)
        if backward:
            moe.backward(dy, cache, cotangents)

    for backward in (False, True):
        jobs = {job.__name__: functools.partial(job, backward) for job in (layer, grouped, dense)}
        seconds = medians(clock, runs, jobs)
        flops = (3 if backward else 1) * 2 * n * 3 * d * f
        own = seconds["layer"]
        print(
            f"{str(shape):>28}  {'fwd+bwd' if backward else 'forward':8} {1e3 * own:9.3f} ms"
            f"  /grouped {own / seconds['grouped']:6.2f}  /dense {own / seconds['dense']:6.2f}"
            f"  {flops / own / 1e12:8.3f} TFLOP/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=5, type=int, metavar=("T", "D", "F", "E", "K"))
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--numpy", action="store_true", help="on the CPU, to try the script")
    options = parser.parse_args()
    try:
        clock = NumPyClock() if options.numpy else CuPyClock()
    except ImportError:
        raise SystemExit("CuPy is not installed: pip install 'pymoe[cuda13]'; --numpy runs on the CPU") from None
    except Exception as error:  # CuPy's own types; without CuPy there is no name to catch
        raise SystemExit(f"CuPy finds no device ({error}); --numpy runs on the CPU") from None
    print(f"{clock.name}; {options.dtype}; medians of {options.runs} runs in turns")
    for shape in [tuple(options.shape)] if options.shape else SHAPES:
        measure(clock, shape, options.dtype, options.runs)


if __name__ == "__main__":
    main()
