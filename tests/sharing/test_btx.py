"""Branch-Train-MiX: what is averaged, what becomes an expert, and the dense model where all models are one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.models import lm
from pymoe.moe import MoEConfig, RouterConfig
from pymoe.sharing import btx
from pymoe.verify import gradcheck

from .layers import frozen, off

SIZES: dict[str, Any] = {"vocab": 11, "d_model": 6, "n_layers": 2, "n_heads": 3, "d_ff": 8, "context": 9}
CFG = lm.LMConfig(**SIZES)
IDS = frozen(np.random.default_rng(0).integers(0, 11, (2, 9)))


def model(seed: int, cfg: lm.LMConfig = CFG, dtype: Any = np.float64) -> dict[str, Any]:
    """A start with enough spread to see every part."""
    p = lm.init(np.random.default_rng(seed), cfg, dtype)
    return tree.map(lambda a: frozen(a * dtype(5) if a.ndim > 1 else a + dtype(0.1 * seed)), p)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, k", [(2, 2), (3, 2), (5, 1), (7, 4)])
@pytest.mark.parametrize("tie", [True, False])
def test_identical_models_are_the_dense_model(n: int, k: int, tie: bool, dtype: Any) -> None:
    cfg = lm.LMConfig(**SIZES, tie=tie, bias=True, gated=False, activation="gelu")
    p = model(1, cfg, dtype)
    mixed, sparse = btx.mix([p] * n, cfg, k=k, rng=np.random.default_rng(0))
    assert (sparse.moe.n_experts, sparse.moe.k, sparse.moe.bias) == (n, k, True)
    y, _ = lm.forward(IDS, p, cfg)
    out, _ = lm.forward(IDS, mixed, sparse)
    assert out.logits.dtype == dtype and off(out.logits, y.logits) <= 64
    for name, a in tree.flatten(mixed).items():
        if ".mlp." not in name:
            assert (a == tree.flatten(p)[name]).all(), name  # the mean of equal arrays is that array


def test_feed_forwards_become_experts_and_the_rest_is_averaged() -> None:
    models = [model(seed) for seed in range(3)]
    mixed, sparse = btx.mix(models, CFG, rng=np.random.default_rng(0))
    assert {n: a.shape for n, a in tree.flatten(mixed).items()} == {
        n: a.shape for n, a in tree.flatten(lm.init(np.random.default_rng(0), sparse)).items()
    }
    flats = [tree.flatten(p) for p in models]
    for name, a in tree.flatten(mixed).items():
        if name.endswith("router.weight"):
            assert 0 < np.abs(a).max() < 0.1
        elif ".mlp." in name:
            for e in range(3):
                assert (a[e] == flats[e][name.replace(".experts", "")]).all()
        else:
            assert off(a, sum(f[name] for f in flats) / 3) <= 4
    assert not off(mixed["norm"]["weight"], models[0]["norm"]["weight"]) <= 4  # control


def test_routers_of_the_callers_own() -> None:
    rows = [frozen(np.random.default_rng(i).standard_normal((2, 6))) for i in range(2)]
    mixed, _ = btx.mix([model(0), model(1)], CFG, routers=rows)
    for i in range(2):
        assert (mixed["layers"][str(i)]["mlp"]["router"]["weight"] == rows[i]).all()


def test_the_gradient_of_a_mixed_model_is_verified() -> None:
    cfg = lm.LMConfig(**SIZES | {"n_layers": 1, "d_ff": 4, "context": 4})
    mixed, sparse = btx.mix([model(seed, cfg) for seed in range(3)], cfg, rng=np.random.default_rng(0), std=0.5)
    ids = frozen(IDS[:, :4].copy())
    targets = np.roll(ids, -1, axis=1)
    gradcheck(lm, ids, mixed, sparse, targets=targets, mode="directional", controls=True)


def test_what_is_refused() -> None:
    p, rng = model(0), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="at least two models, got 1"):
        btx.mix([p], CFG, rng=rng)
    with pytest.raises(ConfigError, match="have experts already"):
        sparse = lm.LMConfig(**SIZES, moe=MoEConfig(6, 8, RouterConfig(2, 1)))
        btx.mix([p, p], sparse, rng=rng)
    with pytest.raises(ConfigError, match="k must not exceed n_experts: got k=3"):
        btx.mix([p, p], CFG, k=3, rng=rng)
    with pytest.raises(ConfigError, match="give rng"):
        btx.mix([p, p], CFG)
    with pytest.raises(ConfigError, match="each of the 2 layers, got 1"):
        btx.mix([p, p], CFG, routers=[np.ones((2, 6))])
    with pytest.raises(ShapeError, match=r"routers\[1\] must have shape \(2, 6\)"):
        btx.mix([p, p], CFG, routers=[np.ones((2, 6)), np.ones((3, 6))])
    with pytest.raises(ShapeError, match=r"model 1 has another tree.*missing \['norm.weight'\]"):
        btx.mix([p, {n: b for n, b in p.items() if n != "norm"}], CFG, rng=rng)
    wide = lm.LMConfig(**SIZES | {"vocab": 12})
    with pytest.raises(ShapeError, match=r"embed_tokens.weight of model 1 must have shape \(11, 6\)"):
        btx.mix([p, model(1, wide)], CFG, rng=rng)
    wide = lm.LMConfig(**SIZES | {"d_ff": 9})
    with pytest.raises(ShapeError, match="must have shape"):  # alike, but not of these settings
        btx.mix([model(0, wide), model(1, wide)], CFG, rng=rng)
    bad = tree.map(lambda a: a.copy(), p)
    bad["norm"]["weight"][2] = np.inf
    with pytest.raises(NonFiniteError, match=r"norm.weight of model 1 is inf at \(2,\)"):
        btx.mix([p, bad], CFG, rng=rng)
