"""Truncated SVD and random projection: eigenvalues of the Gram matrix, rational normal equations, statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse

from pymoe.sharing import reduce

from ..sparsity.oracles.judge import agree, close, locked
from ..sparsity.oracles.rational import exact, solve
from .oracles import split_loops

RNG = np.random.default_rng


def product(a, b) -> np.ndarray:
    """a b, one sum at a time."""
    return np.array(
        [[math.fsum(x * y for x, y in zip(row, c, strict=True)) for c in b.T.tolist()] for row in a.tolist()]
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_truncated_svd(sparse):
    for seed, (rows, columns) in enumerate([(6, 4), (5, 9), (12, 7)]):
        x = RNG(seed).standard_normal((rows, columns)) * (RNG(seed + 9).random((rows, columns)) < 0.7)
        locked(x)
        given = scipy.sparse.csr_array(x) if sparse else x
        eigen = np.sort(np.linalg.eigvalsh(product(x, x.T) if rows < columns else product(x.T, x)))[::-1]
        for n in range(1, min(rows, columns) + (0 if sparse else 1)):
            found = reduce.truncated_svd(given, n)
            squares = found.singular_values**2
            assert np.max(np.abs(squares - eigen[:n])) <= 1e-13 * eigen[0]
            agree(product(found.components, found.components.T), np.eye(n), "float64")
            z = found.transform(given)
            agree(z, product(x, found.components.T))
            back = found.inverse(z)
            agree(back, product(z, found.components))
            error = math.sqrt(math.fsum(v * v for v in (x - back).ravel().tolist()))
            least = split_loops.truncation_error(x, n)
            assert abs(error - least) <= 1e-6 * np.abs(x).max()
            size = math.sqrt(math.fsum(v * v for v in x.ravel().tolist()))
            for relative in (found.relative_error, reduce.relative_error(given, found)):
                assert abs(relative - least / size) <= 1e-6
            for trial in range(5):  # control: no other projection onto n dimensions loses less
                q, _ = np.linalg.qr(found.components.T + 0.05 * RNG(trial).standard_normal((columns, n)))
                assert np.linalg.norm(x - x @ q @ q.T) >= error - 1e-13
            for row in found.components.tolist():  # the sign is fixed by the first of the largest entries
                assert max(row, key=abs) > 0


@pytest.mark.parametrize("kind", ["gaussian", "achlioptas", "li"])
def test_random_projection(kind):
    x = locked(RNG(0).standard_normal((5, 12)))
    found = reduce.random_projection(x, 4, rng=RNG(1), kind=kind)
    r = found.matrix.toarray() if scipy.sparse.issparse(found.matrix) else np.asarray(found.matrix)
    assert r.shape == (12, 4)
    z = found.transform(x)
    agree(z, product(x, r))
    agree(found.transform(scipy.sparse.csr_array(x)), product(x, r))
    if np.linalg.matrix_rank(r) == 4:  # X̂ = Z (RᵀR)⁻¹ Rᵀ
        gram = exact(product(r.T, r))
        back = np.array([[float(v) for (v,) in solve(gram, [[a] for a in row])] for row in exact(z)])
        want = product(back, r.T)
        assert close(found.inverse(z), want, 1e-13)
        agree(product(want, r), z)
        assert not close(found.inverse(z), product(z, r.T), 1e-3)  # control: the transpose is no inverse
    again = reduce.random_projection(x, 4, rng=RNG(1), kind=kind)
    assert np.array_equal(found.transform(x), again.transform(x))


@pytest.mark.parametrize("kind, density", [("gaussian", 1.0), ("achlioptas", 1 / 3), ("li", 1 / 20)])
def test_lengths_are_kept_on_average(kind, density):
    """M = 400: R_jl has variance 1/n, and a share of 1/s of its entries is ±√(s/n)."""
    n, m = 50, 400
    x = locked(np.ones((1, m)) / 20)
    entries, lengths = [], []
    for seed in range(60):
        found = reduce.random_projection(x, n, rng=RNG(seed), kind=kind)
        r = found.matrix.toarray() if scipy.sparse.issparse(found.matrix) else np.asarray(found.matrix)
        entries.append(r.ravel())
        lengths.append(float((found.transform(x) ** 2).sum()))
    every = np.concatenate(entries)
    fourth = 3.0 if kind == "gaussian" else 1 / density
    assert abs(every.mean()) < 5 * math.sqrt(1 / n / every.size)
    assert abs((every**2).mean() * n - 1) < 5 * math.sqrt((fourth - 1) / every.size)
    assert abs(np.mean(lengths) - 1) < 5 * math.sqrt(2 / n / 60)
    share = np.mean(every != 0)
    assert abs(share - density) < 5 * math.sqrt(max(density * (1 - density), 1e-12) / every.size) + 1e-12
    if kind != "gaussian":
        agree(np.unique(np.abs(every[every != 0])), np.array([math.sqrt(1 / density / n)]))


def test_johnson_lindenstrauss():
    for points, eps in [(2, 0.5), (1000, 0.5), (1_000_000, 0.1), (10, 0.99)]:
        want = 4 * math.log(points) / (eps**2 / 2 - eps**3 / 3)
        assert reduce.johnson_lindenstrauss(points, eps) == math.ceil(want)
