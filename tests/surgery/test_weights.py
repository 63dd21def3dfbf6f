"""Pruning the weights of a model: the number of zeros, what stays, who competes with whom."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.sparsity import masks
from pymoe.surgery import calibration, targets, weights
from pymoe.surgery.weights import Pattern
from tests.surgery import models


def pruned(method, pattern=None, sparsity=0.5, what="experts", **settings):
    cfg, p = models.sparse()
    names = targets.names(p, what)
    pattern = Pattern() if pattern is None else pattern
    done = weights.prune(
        p, cfg, names, method=method, sparsity=sparsity, pattern=pattern, text=models.text(), **settings
    )
    return p, names, done


@pytest.mark.parametrize("what", targets.WHAT)
@pytest.mark.parametrize("method", [m for m in weights.METHODS if m != "movement"])
def test_the_masked_are_zero_the_others_stay_and_nothing_else_moves(method, what):
    p, names, done = pruned(method, what=what)
    before, after = tree.flatten(p), tree.flatten(done.p)
    assert list(done.masks) == names
    for name, w in before.items():
        if name not in names:
            assert after[name] is w or np.array_equal(after[name], w)
            continue
        mask = done.masks[name]
        assert mask.dtype == bool and not after[name][~mask].any() and after[name].dtype == w.dtype
        if method not in weights.COMPENSATING:
            assert np.array_equal(after[name][mask], w[mask])
            per = mask.reshape(-1, mask.shape[-2] * mask.shape[-1])
            assert (per.shape[1] - per.sum(1) == masks.count(0.5, per.shape[1])).all()
        else:
            assert not np.array_equal(after[name][mask], w[mask])  # compensated


def test_the_scopes_count_within_their_pools():
    shapes = {name: m.shape for name, m in pruned("magnitude")[2].masks.items()}
    for scope, counted in (
        ("row", lambda m: m.reshape(-1, m.shape[-1]).sum(1)),
        ("matrix", lambda m: m.reshape(-1, m.shape[-2] * m.shape[-1]).sum(1)),
        ("tensor", lambda m: m.sum()),
    ):
        done = pruned("magnitude", Pattern(scope=scope), 0.3)[2]
        for name, mask in done.masks.items():
            size = {"row": shapes[name][-1], "matrix": shapes[name][-1] * shapes[name][-2], "tensor": mask.size}[scope]
            assert np.all(size - counted(mask) == masks.count(0.3, size))
    done = pruned("magnitude", Pattern(scope="model"), 0.3)[2]
    total = sum(m.size for m in done.masks.values())
    assert total - sum(m.sum() for m in done.masks.values()) == masks.count(0.3, total)


@pytest.mark.parametrize(
    "pattern", [Pattern("n:m", nm=(2, 4)), Pattern("rows"), Pattern("columns"), Pattern("blocks", block=(4, 2))]
)
def test_patterns(pattern):
    for method in ("magnitude", "wanda"):
        done = pruned(method, pattern)[2]
        for mask in done.masks.values():
            assert 0 < mask.sum() < mask.size
            if pattern.kind == "n:m":
                assert (mask.reshape(-1, 4).sum(1) == 2).all()
            if pattern.kind == "rows":
                assert (mask.all(-1) | ~mask.any(-1)).all()
            if pattern.kind == "columns":
                assert (mask.all(-2) | ~mask.any(-2)).all()
            if pattern.kind == "blocks":
                r, c = mask.shape[-2] // 4, mask.shape[-1] // 2
                each = mask.reshape(-1, r, 4, c, 2).sum((2, 4))
                assert set(np.unique(each)) == {0, 8}


def test_heads_go_as_a_whole():
    cfg, p = models.sparse()
    names = [n for n in targets.names(p, "all") if n.endswith("o_proj")]
    done = weights.prune(p, cfg, names, method="magnitude", sparsity=0.34, pattern=Pattern("heads"))
    for mask in done.masks.values():
        per_head = mask.reshape(mask.shape[0], 3, -1).sum((0, 2))
        assert sorted(per_head.tolist()) == [0, mask.size // 3, mask.size // 3]


def test_sparsegpt_and_obs_keep_the_layers_output_better_than_the_mask_alone():
    cfg, p = models.sparse(layers=1)
    names = targets.names(p, "experts")
    text = models.text(600)
    name = names[0]
    gram = calibration.moments(p, cfg, text, [name], grams=True)[name].gram
    for method in weights.COMPENSATING:
        done = weights.prune(p, cfg, [name], method=method, sparsity=0.5, text=text)
        w, v, mask = tree.flatten(p)[name], tree.flatten(done.p)[name], done.masks[name]

        def error(u, w=w):
            return sum(np.einsum("ij,jk,ik->", u[e] - w[e], gram[e], u[e] - w[e]) for e in range(models.E))

        assert error(v) < 0.8 * error(np.where(mask, w, 0))


def test_an_expert_without_tokens_is_pruned_by_magnitude():
    cfg, p = models.sparse(layers=1)
    flat = tree.flatten(p)
    router = flat["layers.0.mlp.router.weight"].copy()
    router[3] = 0
    router[[0, 1, 2, 4]] *= 1e-9
    bias = dataclasses.replace(
        cfg, moe=dataclasses.replace(cfg.moe, router=dataclasses.replace(cfg.moe.router, bias=True))
    )
    flat["layers.0.mlp.router.weight"] = router
    flat["layers.0.mlp.router.bias"] = np.array([0.0, 0, 0, -50, 0])
    q = tree.unflatten(flat)
    name = "layers.0.mlp.experts.down_proj"
    done = weights.prune(q, bias, [name], method="sparsegpt", sparsity=0.5, text=models.text())
    w, v = flat[name][3], tree.flatten(done.p)[name][3]
    kept = done.masks[name][3]
    np.testing.assert_allclose(v[kept], w[kept], rtol=1e-12)
    assert np.abs(w[kept]).min() >= np.abs(w[~kept]).max()


def test_bad_input():
    cfg, p = models.sparse()
    names = targets.names(p, "experts")
    with pytest.raises(ConfigError, match="looks at data"):
        weights.prune(p, cfg, names, method="wanda", sparsity=0.5)
    with pytest.raises(ConfigError, match="method must be one of"):
        weights.prune(p, cfg, names, method="Wanda", sparsity=0.5)
    with pytest.raises(ConfigError):
        weights.prune(p, cfg, names, method="magnitude", sparsity=1.5)
    with pytest.raises(ConfigError, match="compensates entry by entry"):
        weights.prune(p, cfg, names, method="sparsegpt", sparsity=0.5, pattern=Pattern("rows"), text=models.text())
    with pytest.raises(ConfigError, match="scope 'model'"):
        weights.prune(p, cfg, names, method="obs", sparsity=0.5, pattern=Pattern(scope="model"), text=models.text())
    with pytest.raises(ConfigError):  # 12 columns, blocks of 5
        weights.prune(p, cfg, names, method="magnitude", sparsity=0.5, pattern=Pattern("blocks", block=(5, 5)))
    with pytest.raises(ConfigError):  # a ragged tail
        weights.prune(p, cfg, names, method="magnitude", sparsity=0.5, pattern=Pattern("n:m", nm=(2, 5)))
    flat = tree.flatten(p)
    spoilt = flat[names[0]].copy()
    spoilt[1, 2, 3] = np.nan
    q = tree.unflatten(flat | {names[0]: spoilt})
    with pytest.raises(NonFiniteError, match=r"holds nan at \(1, 2, 3\)"):
        weights.prune(q, cfg, names, method="magnitude", sparsity=0.5)
    for s in (0.0, 1.0):
        done = weights.prune(p, cfg, names, method="magnitude", sparsity=s)
        assert all(m.all() if s == 0 else not m.any() for m in done.masks.values())
    with pytest.raises(ConfigError, match="no matrices"):
        targets.names(models.dense()[1], "experts")
