"""How much does the MoE layer cost over its matrix products?  ``python benchmarks/layer.py [--quick] [--shape 1 ...]``

Prints, for five shapes in float32, the median time of forward and of forward+backward of pymoe and of each installed
peer, and each as a ratio to the floor: the layer's matrix products alone, same routing, into arrays allocated before.
The floor runs on the same BLAS core type as pymoe.  All run with a malloc that keeps what is freed, as the ``pymoe``
command does (``pymoe.cli.allocator``); "pymoe, plain malloc" is a library user who has not asked for that.
Below: peak memory as a multiple of what must be kept.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys

from interleave import Contender, medians

from pymoe.cli import allocator, blas_core

SHAPES = [
    (2048, 1024, 512, 64, 8),
    (2048, 1024, 3584, 8, 2),
    (4096, 256, 64, 256, 8),
    (64, 1024, 512, 64, 8),
    (1, 1024, 512, 64, 8),
]
PEERS = ["transformers eager", "transformers grouped_mm", "onnxruntime MoE", "jax ragged_dot"]
CORES = ["Haswell", "SkylakeX"]


PLAIN = "pymoe, plain malloc"


def start(name: str, shape: tuple[int, ...], core: dict[str, str]) -> Contender | None:
    env = {} if name == PLAIN else dict(allocator.ENVIRONMENT)
    if name in ("floor", "pymoe", PLAIN):
        env |= core
    try:
        return Contender(name, "worker.py", ["pymoe" if name == PLAIN else name, *map(str, shape)], env)
    except RuntimeError as why:
        print(f"  ({name} is left out: {why})")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="*", default=range(1, len(SHAPES) + 1), help="which of the five")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without", nargs="*", default=[], metavar="PEER", help=f"leave out some of {PEERS}")
    parser.add_argument("--quick", action="store_true", help="only the floor and pymoe, 7 rounds")
    options = parser.parse_args()
    rounds = 7 if options.quick else options.rounds

    chosen = os.environ.get("OPENBLAS_CORETYPE") or blas_core.wanted()
    own = {"OPENBLAS_CORETYPE": chosen} if chosen else {}
    print(f"python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"OPENBLAS_CORETYPE for pymoe and the floor: {chosen or 'as NumPy picks'}")
    print("peak of a 1024 x 1024 x 1024 float32 product, GF/s:")
    for core in [None, *(CORES if blas_core.wanted() else [])]:
        worker = Contender("peak", "worker.py", ["peak", "1024"], {"OPENBLAS_CORETYPE": core} if core else {})
        print(f"  {core or 'as NumPy picks it':20s} {float(worker.ready):6.0f}")
        worker.close()

    for number in options.shape:
        shape = SHAPES[number - 1]
        print(f"\n(T, D, F, E, K) = {shape}")
        names = ["floor", "pymoe", PLAIN, *([] if options.quick else (p for p in PEERS if p not in options.without))]
        contenders = [c for n in names if (c := start(n, shape, own)) is not None]
        times = medians(contenders, ["forward", "both"], rounds, patience=4.0)
        memory = next(c for c in contenders if c.name == "pymoe").ask("=memory")
        for c in contenders:
            c.close()
        ratios = f"{'/floor':>7s} {'/pymoe':>7s}"
        print(f"  {'':24s} {'forward ms':>10s} {ratios} {'fwd+bwd ms':>11s} {ratios}")
        for c in contenders:
            cells = ""
            for mode, width in (("forward", 10), ("both", 11)):
                t = times.get((c.name, mode))
                if t is None:
                    cells += f" {'-':>{width}s} {'-':>7s} {'-':>7s}"
                else:
                    cells += f" {t * 1e3:{width}.3f} {t / times['floor', mode]:7.2f} {t / times['pymoe', mode]:7.2f}"
            print(f"  {c.name:24s}{cells}")
        print(f"  peak memory of forward+backward / activations that must be kept: {float(memory):.2f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
