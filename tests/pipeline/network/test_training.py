"""The stages before the passes: maps with given weights and their best, what the folds say, the first router."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from pymoe import verify
from pymoe.backend.errors import GradientError
from pymoe.ops import log_softmax
from pymoe.pipeline import merging
from pymoe.pipeline.network import convex, first, linear_part

N, V, E, C = 17, 5, 3, 4


def made(seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, V)) * (rng.random((N, V)) < 0.7)
    weight, bias = rng.standard_normal((V, E, C)), rng.standard_normal((E, C))
    g = rng.random((N, E))
    return x, weight, bias, g


def entropy(y: np.ndarray, t: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
    log_p = log_softmax.forward(y)[0]
    hit = np.eye(y.shape[1])[t]
    return -float(share @ (hit * log_p).sum(axis=1)), (np.exp(log_p) - hit) * share[:, None]


class Mixed:
    """``convex`` as an op of its maps, its features constant."""

    def __init__(self, x: Any, g: np.ndarray, factor: float = 1.0) -> None:
        self.x, self.g, self.factor = x, g, factor

    def forward(self, weight: Any, p: dict[str, Any]) -> Any:
        return convex.forward(self.x, weight, p["bias"], g=self.g)

    def backward(self, dy: Any, cache: Any) -> Any:
        _, d = convex.backward(dy, cache)
        return self.factor * d["weight"], {"bias": d["bias"]}


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_gradients_of_mixed_maps(kind: str) -> None:
    x, weight, bias, g = made()
    rows = scipy.sparse.csr_array(x) if kind == "sparse" else x
    assert verify.gradcheck(Mixed(rows, g), weight, {"bias": bias}, controls=True).error < 1e-13
    with pytest.raises(GradientError):
        verify.gradcheck(Mixed(rows, g, 1.001), weight, {"bias": bias})


def test_mixed_maps_row_by_row() -> None:
    x, weight, bias, g = made(1)
    want = np.zeros((N, C))
    for n in range(N):
        for e in range(E):
            for c in range(C):
                want[n, c] += g[n, e] * (sum(x[n, v] * weight[v, e, c] for v in range(V)) + bias[e, c])
    got, _ = convex.forward(x, weight, bias, g=g)
    assert np.abs(got - want).max() < 1e-13 * np.abs(want).max() < np.abs(got - 1.001 * want).max()


def test_the_best_maps_have_no_gradient_and_a_pull() -> None:
    x, _, _, g = made(2)
    t = np.random.default_rng(3).integers(0, C, N)
    share, offset = np.full(N, 1 / N), np.random.default_rng(4).standard_normal((N, C))
    p = convex.fit(x, t, share, entropy, l2=0.05, outputs=C, g=g, offset=offset)

    def gradient(p: dict[str, np.ndarray]) -> float:
        y, cache = convex.forward(x, p["weight"], p["bias"], g=g)
        d = convex.backward(entropy(y + offset, t, share)[1], cache)[1]
        return max(float(np.abs(d[name] + 0.05 * p[name]).max()) for name in p)

    assert gradient(p) < 1e-4 < gradient({name: 1.01 * a for name, a in p.items()})


def test_what_is_said_of_unseen_rows_does_not_know_their_labels() -> None:
    rng = np.random.default_rng(5)
    x, t, s = rng.standard_normal((60, V)), rng.integers(0, C, 60), rng.random(60)
    fold = np.arange(60) % 3
    other = np.where(fold == 0, (t + 1) % C, t)

    def unseen(t: np.ndarray, fold: Any) -> np.ndarray:
        return linear_part.fit(x, t, s, entropy, l2=(0.5,), fold=fold, outputs=C).unseen

    one, two = unseen(t, fold), unseen(other, fold)
    assert (one[fold == 0] == two[fold == 0]).all() and (one[fold == 1] != two[fold == 1]).any()
    assert (unseen(t, None)[fold == 0] != unseen(other, None)[fold == 0]).any()  # control: one fit of all rows knows


def test_the_penalty_is_the_one_of_the_least_loss_on_unseen_rows() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((90, V))
    share, fold = np.ones(90), np.arange(90) % 3
    noise, clear = rng.integers(0, 2, 90), (x[:, 0] > 0).astype(int)
    strong = linear_part.fit(x, noise, share, entropy, l2=linear_part.L2, fold=fold, outputs=2)
    weak = linear_part.fit(x, clear, share, entropy, l2=linear_part.L2, fold=fold, outputs=2)
    assert strong.l2 == linear_part.L2[0] > weak.l2
    losses = [entropy(linear_part.fit(x, clear, share, entropy, l2=(l2,), fold=fold, outputs=2).unseen, clear, share)[0]
              for l2 in linear_part.L2]  # fmt: skip
    assert linear_part.L2[int(np.argmin(losses))] == weak.l2


def test_folds_have_their_share_of_each_class_and_equal_rows_together() -> None:
    y, distinct = np.repeat([0, 1], [30, 9]), np.arange(39)
    fold = merging.folds(y, distinct, 3)
    assert [[int((fold[y == c] == k).sum()) for k in range(3)] for c in (0, 1)] == [[10] * 3, [3] * 3]
    distinct = np.concatenate([np.arange(30), [0], np.arange(30, 38)])  # row 30 is row 0, with another class
    assert merging.folds(y, distinct, 3)[30] == fold[0]


def test_the_first_router_sends_like_rows_to_one_expert() -> None:
    rng = np.random.default_rng(7)
    group = rng.integers(0, E, 300)
    x = 3 * np.eye(6)[group] + 0.3 * rng.standard_normal((300, 6))
    u, bias = first.vectors(x, np.ones(300), 2, np.random.default_rng(0))
    h = x @ u + bias

    def purity(r: np.ndarray) -> float:
        owner = (h @ r.T).argmax(axis=1)
        return sum(np.bincount(group[owner == e], minlength=E).max() for e in range(E)) / 300

    router = first.router(h, E, np.random.default_rng(0))
    assert router is not None and purity(router) > 0.95
    assert np.mean([purity(rng.standard_normal((E, 2))) for _ in range(20)]) < 0.9  # control: routers at random
    assert first.router(h[:2], E, np.random.default_rng(0)) is None
