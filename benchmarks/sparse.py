"""What does a sparse weight save?  ``python benchmarks/sparse.py [--rounds 9] [--size 1024] [--tokens 1 16 512]``

One float32 matrix with 50, 70, 80, 90, 95 and 99 % zeros, unstructured (CSR), 2:4 (N:M) and in blocks of 32 x 32 (BSR);
y = x Wᵀ and both gradients (dx, and ddata of the stored values only), one interleaved run of all contenders, medians.
For each: milliseconds of pymoe, GF/s of useful work (2 · tokens · stored values), and that time over those of dense
BLAS on the same matrix, of scipy.sparse and of torch.sparse: below 1 pymoe is faster.  Then the share of zeros from
which each form beats dense BLAS, by interpolation, and what one token costs for each stored byte.

torch has no semi-structured (2:4) product on a CPU, and of BSR only the forward product ("torch BSR"): for the rest
its CSR runs on those matrices.  SciPy's BSR is slower than its CSR, which stands for it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform

from interleave import Contender, medians
from sparse_worker import BLOCK, CONTENDERS, DIRECTIONS, FORMS, repeats

from pymoe.cli import allocator, blas_core

PEERS = ["dense BLAS", "scipy.sparse", "torch.sparse", "torch BSR"]
NAMES = {"csr": "unstructured, CSR", "nm": "2:4, N:M", "bsr": f"{BLOCK} x {BLOCK} blocks, BSR"}
Times = dict[tuple[str, str], float]


def start(name: str, size: int, tokens: list[int], core: dict[str, str]) -> Contender | None:
    env = dict(allocator.ENVIRONMENT) | core
    try:
        return Contender(name, "sparse_worker.py", [name, str(size), *map(str, tokens)], env)
    except RuntimeError as why:
        print(f"  ({name} is left out: {why})")
        return None


def seconds(times: Times, name: str, form: str, zeros: int, tokens: int, direction: str) -> float:
    """The median of one product; NaN where that contender has none."""
    mode = f"dense:0:{tokens}:{direction}" if name == "dense BLAS" else f"{form}:{zeros}:{tokens}:{direction}"
    return times.get((name, mode), math.nan) / repeats(tokens)


def crossing(levels: tuple[int, ...], ratios: list[float]) -> str:
    """From how many per cent zeros the time over dense BLAS is below 1, the logarithm of it taken as linear between."""
    if any(map(math.isnan, ratios)):
        return "-"
    if ratios[-1] >= 1:
        return f"not by {levels[-1]} %"
    for i in range(len(levels) - 1, 0, -1):
        if ratios[i - 1] >= 1:
            a, b = math.log(ratios[i - 1]), math.log(ratios[i])
            return f"{levels[i - 1] + (levels[i] - levels[i - 1]) * a / (a - b):.0f} %"
    return f"{levels[0]} % or fewer"


def table(times: Times, size: int, tokens: int, direction: str) -> None:
    print(f"\n{direction}, {tokens} token{'s' if tokens > 1 else ''}")
    over = [f"/{peer}" for peer in PEERS]
    print(f"  {'':25s} {'zeros':>6s} {'pymoe ms':>9s} {'GF/s':>7s} " + " ".join(f"{o:>13s}" for o in over))
    for form, levels in FORMS.items():
        for zeros in levels:
            own = seconds(times, "pymoe", form, zeros, tokens, direction)
            work = 2 * tokens * size * size * (1 - zeros / 100) / own / 1e9
            cells = ""
            for peer in PEERS:
                ratio = own / seconds(times, peer, form, zeros, tokens, direction)
                cells += f" {'-' if math.isnan(ratio) else format(ratio, '.2f'):>13s}"
            print(f"  {NAMES[form]:25s} {zeros:4d} % {own * 1e3:9.3f} {work:7.1f}{cells}")


def wins(times: Times, tokens: list[int]) -> None:
    print("\nfaster than dense BLAS from this share of zeros on")
    print(f"  {'':25s} {'tokens':>6s} " + " ".join(f"{d:>15s}" for d in DIRECTIONS))
    for name, form in [
        ("pymoe", "csr"),
        ("pymoe", "nm"),
        ("pymoe", "bsr"),
        ("scipy.sparse", "csr"),
        ("torch.sparse", "csr"),
    ]:
        for n in tokens:
            cells = []
            for direction in DIRECTIONS:
                base = seconds(times, "dense BLAS", form, 0, n, direction)
                ratios = [seconds(times, name, form, z, n, direction) / base for z in FORMS[form]]
                cells.append(f"{crossing(FORMS[form], ratios):>15s}")
            label = f"{form.upper() if form != 'nm' else '2:4'} of {name}"
            print(f"  {label:25s} {n:6d} " + " ".join(cells))


def bytes_of_one_token(times: Times, size: int) -> None:
    print("\none token: nanoseconds for each stored byte of values, by the share of zeros")
    for form, levels in FORMS.items():
        for direction in DIRECTIONS:
            cells = []
            for z in levels:
                stored = 4 * size * size * (1 - z / 100)
                cells.append(f"{z} %: {seconds(times, 'pymoe', form, z, 1, direction) * 1e9 / stored:.3f}")
            print(f"  {NAMES[form]:25s} {direction:8s} " + "   ".join(cells))
    dense = [seconds(times, "dense BLAS", "", 0, 1, d) * 1e9 / (4 * size * size) for d in DIRECTIONS]
    print(f"  {'dense BLAS':25s} " + "   ".join(f"{d} {t:.3f}" for d, t in zip(DIRECTIONS, dense, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=1024, help=f"rows and columns, a multiple of {BLOCK}")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 512])
    parser.add_argument("--without", nargs="*", default=[], metavar="PEER", help=f"leave out some of {PEERS}")
    options = parser.parse_args()
    if options.size % BLOCK or options.size < BLOCK:
        parser.error(f"--size must be a multiple of {BLOCK}, got {options.size}")

    chosen = os.environ.get("OPENBLAS_CORETYPE") or blas_core.wanted()
    own = {"OPENBLAS_CORETYPE": chosen} if chosen else {}
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, {options.size} x {options.size} float32")
    print(f"OPENBLAS_CORETYPE: {chosen or 'as NumPy picks'}")
    names = [n for n in CONTENDERS if n not in options.without]
    contenders = [c for n in names if (c := start(n, options.size, options.tokens, own)) is not None]
    modes = list(dict.fromkeys(mode for c in contenders for mode in c.ready.split()))
    times: Times = {}
    for mode in modes:  # contender after contender for one product: what is compared is measured side by side
        times |= medians(contenders, [mode], options.rounds, patience=1.0)
    for c in contenders:
        c.close()
    for tokens in options.tokens:
        for direction in DIRECTIONS:
            table(times, options.size, tokens, direction)
    wins(times, options.tokens)
    if 1 in options.tokens:
        bytes_of_one_token(times, options.size)


if __name__ == "__main__":
    main()
