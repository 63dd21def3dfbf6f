"""One contender of ``sparse.py``: ``python sparse_worker.py NAME SIZE TOKENS ...``, then a line for each call.

A call is "form:zeros:tokens:direction", e.g. "csr:90:512:dx", and runs ``repeats(tokens)`` times.  Every contender
holds the same float32 matrices and tokens, and takes and gives rows of tokens, as a layer does.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from interleave import serve

from pymoe.cli import allocator

ZEROS = (50, 70, 80, 90, 95, 99)
BLOCK = 32
FORMS = {"csr": ZEROS, "nm": (50,), "bsr": ZEROS}  # unstructured, 2:4, blocks
DIRECTIONS = ("forward", "dx", "ddata")
Calls = dict[str, Callable[[], object]]
Products = Iterator[tuple[str, int, int, tuple[Any, ...]]]  # form, zeros, tokens, a function for each direction


def repeats(tokens: int) -> int:
    """How many calls in a row are timed as one (and as many go before, untimed): as the layers of a model follow each
    other.  A core of a virtual machine that has slept takes a millisecond or two to come back, whoever calls it."""
    return max(16, 800 // tokens)


def problems(size: int) -> Iterator[tuple[str, int, Any]]:
    """(form, per cent zeros, the dense matrix with its zeros)."""
    import numpy as np

    from pymoe import kernels

    rng = np.random.default_rng(0)
    w = rng.standard_normal((size, size)).astype(np.float32)
    for form, levels in FORMS.items():
        for zeros in levels:
            if form == "csr":
                mask = rng.random((size, size)) >= zeros / 100
            elif form == "nm":
                mask = kernels.reference.nm_mask(w, 2, 4)
            else:
                grid = size // BLOCK
                kept = np.zeros(grid * grid, bool)
                kept[rng.permutation(grid * grid)[: max(1, round(grid * grid * (1 - zeros / 100)))]] = True
                mask = np.repeat(np.repeat(kept.reshape(grid, grid), BLOCK, axis=0), BLOCK, axis=1)
            yield form, zeros, np.where(mask, w, np.float32(0))


def batches(size: int, tokens: list[int]) -> dict[int, tuple[Any, Any]]:
    """{N: (x, dy)}, each (N, size)."""
    import numpy as np

    rng = np.random.default_rng(1)
    return {n: tuple(rng.standard_normal((n, size)).astype(np.float32) for _ in range(2)) for n in tokens}  # type: ignore[misc]


def pymoe(size: int, tokens: list[int]) -> Products:
    """CSR with int32 indices, as SciPy makes them; 2:4 with a byte an entry; BSR."""
    from scipy import sparse

    from pymoe.kernels import of

    x = batches(size, tokens)
    k = of(next(iter(x.values()))[0])
    for form, zeros, w in problems(size):
        if form == "nm":
            import numpy as np

            column = np.nonzero(w)[1].reshape(size, size // 2)
            position, data = (column % 4).astype(np.uint8), np.take_along_axis(w, column, axis=1)
            given: tuple[Any, ...] = (position, 4)
        else:
            stored = sparse.csr_array(w) if form == "csr" else sparse.bsr_array(w, blocksize=(BLOCK, BLOCK))
            data, given = stored.data, (stored.indices, stored.indptr)
        y, dx, dd = (getattr(k, f"{form}_linear{end}") for end in ("", "_dx", "_ddata"))
        block = ((BLOCK, BLOCK),) if form == "bsr" else ()
        for n, (a, dy) in x.items():
            yield form, zeros, n, (
                lambda a=a, data=data, given=given, y=y: y(a, data, *given),
                lambda dy=dy, data=data, given=given, dx=dx: dx(dy, data, *given, size),
                lambda a=a, dy=dy, given=given, dd=dd, block=block: dd(dy, a, *given, *block),
            )  # fmt: skip


def dense(size: int, tokens: list[int]) -> Products:
    """NumPy's BLAS on the whole matrix, zeros and all."""
    _, _, w = next(problems(size))
    for n, (x, dy) in batches(size, tokens).items():
        yield "dense", 0, n, (
            lambda x=x: x @ w.T,
            lambda dy=dy: dy @ w,
            lambda x=x, dy=dy: dy.T @ x,
        )  # fmt: skip


def scipy_sparse(size: int, tokens: list[int]) -> Products:
    """CSR for every form (its BSR is slower); ddata is the dense dW, of which the stored places are taken."""
    import numpy as np
    from scipy import sparse

    x = batches(size, tokens)
    for form, zeros, w in problems(size):
        stored, places = sparse.csr_array(w), np.flatnonzero(w)
        for n, (a, dy) in x.items():
            yield form, zeros, n, (
                lambda a=a, stored=stored: (stored @ a.T).T,
                lambda dy=dy, stored=stored: (stored.T @ dy.T).T,
                lambda a=a, dy=dy, places=places: np.take((dy.T @ a).reshape(-1), places),
            )  # fmt: skip


def torch_sparse(size: int, tokens: list[int]) -> Products:
    """CSR for every form; dx by a transposed copy that is not timed (without it: slower); ddata by sampled_addmm."""
    import torch

    warnings.simplefilter("ignore")  # "Sparse CSR tensor support is in beta state"
    torch.set_grad_enabled(False)
    x = batches(size, tokens)
    for form, zeros, w in problems(size):
        whole = torch.from_numpy(w)
        stored, back = whole.to_sparse_csr(), whole.t().contiguous().to_sparse_csr()
        for n, (a, dy) in x.items():
            a, dy = torch.from_numpy(a), torch.from_numpy(dy)
            yield form, zeros, n, (
                lambda a=a, stored=stored: torch.mm(stored, a.t()).t(),
                lambda dy=dy, back=back: torch.mm(back, dy.t()).t(),
                lambda a=a, dy=dy, stored=stored: torch.sparse.sampled_addmm(stored, dy.t(), a, beta=0),
            )  # fmt: skip


def torch_bsr(size: int, tokens: list[int]) -> Products:
    """Forward only: on a CPU torch has no transposed BSR product and no sampled one."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    x = batches(size, tokens)
    for form, zeros, w in problems(size):
        if form == "bsr":
            stored = torch.from_numpy(w).to_sparse_bsr((BLOCK, BLOCK))
            for n, (a, _) in x.items():
                a = torch.from_numpy(a)
                yield form, zeros, n, (lambda a=a, stored=stored: torch.mm(stored, a.t()).t(),)


CONTENDERS = {
    "pymoe": pymoe,
    "dense BLAS": dense,
    "scipy.sparse": scipy_sparse,
    "torch.sparse": torch_sparse,
    "torch BSR": torch_bsr,
}


def _again(call: Callable[[], object], times: int) -> Callable[[], object]:
    def run() -> object:
        for _ in range(times - 1):
            call()
        return call()

    return run


def main() -> None:
    name, size, *tokens = sys.argv[1:]
    allocator.keep()
    calls: Calls = {}
    for form, zeros, n, directions in CONTENDERS[name](int(size), [int(t) for t in tokens]):
        for direction, call in zip(DIRECTIONS, directions, strict=False):
            calls[f"{form}:{zeros}:{n}:{direction}"] = _again(call, repeats(n))
    serve(calls)


if __name__ == "__main__":
    main()
