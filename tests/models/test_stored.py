"""Whole models with stored experts: the dense model with masked weights, its gradients at the stored places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import presets, storage, verify
from pymoe.backend import tree
from pymoe.models import LMConfig, Seq2SeqConfig, count_parameters, lm, module_of
from pymoe.storage import Weight

from .cases import SIZES, distance, frozen, parameters

MOE = presets.mixtral(d_model=8, d_ff=12, n_experts=5, k=2, d_shared=4)
SETTINGS: dict[str, Any] = {**SIZES, "d_model": 8, "head_dim": 2, "n_layers": 2, "moe": MOE, "moe_layers": (1,)}
MODELS = {
    "lm": LMConfig(**SETTINGS),
    "seq2seq": Seq2SeqConfig(
        **{**SETTINGS, "moe_layers": (0, 1), "decoder_moe_layers": (0,), "decoder_layers": 1, "target_vocab": 12}
    ),
}
KINDS = ("csr", "bsr", "nm", "delta")


def compress(kind: str, name: str, w: np.ndarray) -> Any:
    """The matrices of experts at about half their weights, in the form ``kind``; everything else as it is."""
    if not (name.endswith("_proj") and (".experts." in name or ".shared." in name)):
        return w
    size = np.abs(w)
    if kind == "csr":
        return storage.csr.from_dense(w, size > np.median(size))
    if kind == "bsr":
        *lead, f, d = w.shape
        blocks = size.reshape(*lead, f // 2, 2, d // 4, 4).sum(axis=(-3, -1))
        return storage.bsr.from_dense(w, (2, 4), np.repeat(np.repeat(blocks > np.median(blocks), 2, -2), 4, -1))
    if kind == "nm":
        ranks = np.argsort(np.argsort(size.reshape(*w.shape[:-1], -1, 4), axis=-1), axis=-1)
        return storage.nm.from_dense(w, 2, 4, (ranks >= 2).reshape(w.shape))
    stack = w if w.ndim == 3 else w[None]
    mean = stack.mean(0)
    u, s, v = np.linalg.svd(stack - mean + 1e-3, full_matrices=False)
    a, b = u[..., :2] * s[..., None, :2], v[..., :2, :]
    return storage.Delta(*(frozen(part) for part in ((mean, a, b) if w.ndim == 3 else (mean, a[0], b[0]))))


def stored(kind: str, cfg: Any) -> dict[str, Any]:
    flat = tree.flatten(parameters(cfg))
    return tree.unflatten({name: compress(kind, name, w) for name, w in flat.items()})


def inputs(cfg: Any) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """(ids before p, targets): (B, S) = (3, 7), the decoder's (3, 6)."""
    rng = np.random.default_rng(4)
    ids = [frozen(rng.integers(0, cfg.vocab, (3, 7)))]
    if isinstance(cfg, Seq2SeqConfig):
        ids.append(frozen(rng.integers(0, 12, (3, 6))))
    return tuple(ids), frozen(rng.integers(0, 11, ids[-1].shape))


def run(cfg: Any, p: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    (first, *rest), targets = inputs(cfg)
    module = module_of(cfg)
    out, cache = module.forward(first, p, cfg, *rest, targets=targets)
    _, dp = module.backward(None, cache, {name: 1.0 for name in out.losses})
    return out, tree.flatten(dp)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_is_the_dense_model_with_masked_weights(model: str, kind: str) -> None:
    cfg = MODELS[model]
    p = stored(kind, cfg)
    out, dp = run(cfg, p)
    wanted, dp_wanted = run(cfg, storage.forms.dense(p))
    assert distance(out.logits, wanted.logits) <= 1e-13 < distance(1.001 * out.logits, wanted.logits)
    held = 0
    for name, g in dp.items():
        if not isinstance(g, Weight):
            assert distance(g, dp_wanted[name]) <= 1e-13, name
        elif kind == "delta":
            held += 1
            full = dp_wanted[name]
            assert distance(g.mean, full.sum(0) if full.ndim == 3 else full) <= 1e-13, name
        else:
            held += 1
            masked = np.where(g.mask(), dp_wanted[name], 0)
            assert distance(g.dense(), masked) <= 1e-13 < distance(1.001 * g.dense(), masked), name
    assert held == {"lm": 4, "seq2seq": 12}[model]
    assert list(dp) == list(tree.flatten(p))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_stored_values(kind: str) -> None:
    cfg = MODELS["lm"]
    arrays, templates = storage.split(stored(kind, cfg))

    def forward(ids: Any, p: Any, targets: Any) -> Any:
        return lm.forward(ids, storage.join(p, templates), cfg, targets=targets)

    def backward(dlogits: Any, cache: Any, dlosses: Any = None) -> Any:
        dx, dp = lm.backward(dlogits, cache, dlosses)
        return dx, storage.split(dp)[0]

    (ids,), targets = inputs(cfg)
    model = SimpleNamespace(__name__="lm stored", forward=forward, backward=backward)
    report = verify.gradcheck(model, ids, arrays, targets, mode="directional", controls=True)
    assert report.error <= 1e-13 and report.zeros == ()
    assert any(name.startswith("layers.1.mlp.experts.down_proj.") for name in report.errors)


def test_counting_by_hand() -> None:
    cfg = MODELS["lm"]
    dense = count_parameters(cfg)
    p = stored("nm", cfg)
    pruned = count_parameters(cfg, p)
    experts, shared = 5 * 3 * 12 * 8, 3 * 4 * 8
    assert dense.total - pruned.total == (experts + shared) // 2
    assert dense.active - pruned.active == (experts * 2 // 5 + shared) // 2
    low = count_parameters(cfg, stored("delta", cfg))
    up, down = (24 * 8, 2 * (24 + 8)), (8 * 12, 2 * (8 + 12))  # mean, and one difference of rank 2
    of_shared = (8 * 8 + 2 * (8 + 8)) + (8 * 4 + 2 * (8 + 4))
    assert low.total == dense.total - experts - shared + of_shared + up[0] + down[0] + 5 * (up[1] + down[1])
    assert low.active == dense.active - experts * 2 // 5 - shared + of_shared + up[0] + down[0] + 2 * (up[1] + down[1])


def test_gradients_add_up_and_scale() -> None:
    """What accumulation and clipping do with a tree that holds stored weights."""
    cfg = MODELS["lm"]
    _, dp = run(cfg, stored("csr", cfg))
    once = tree.unflatten(dp)
    total = tree.flatten(tree.map(lambda g: g * 0.5, tree.add(once, once)))
    name = "layers.1.mlp.experts.down_proj"
    assert isinstance(total[name], storage.CSR) and np.array_equal(total[name].data, dp[name].data)
