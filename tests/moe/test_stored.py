"""The layer on stored sparse weights: gradients to 1e-13; it is the dense layer with masked weights (P11, G11)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe, storage, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, GradientError, ShapeError
from pymoe.moe import MoEConfig, stored
from pymoe.storage import Weight

from .frames import ALL, Frame, config, frozen, make, relative

KINDS = ("csr", "bsr", "nm", "delta")
SIZES: dict[str, Any] = {"d_model": 8, "d_ff": 4, "n_experts": 5, "k": 2}
BLOCK, N, M = (2, 4), 2, 4  # divide (2F, D) = (8, 8), (F, D) = (4, 8) and (D, F) = (8, 4)
SETTINGS = {
    "glu": {},
    "glu, biases": {"bias": True},
    "mlp": {"gated": False, "activation": "gelu"},
    "mlp, biases, shared": {"gated": False, "activation": "gelu", "bias": True, "d_shared": 12},
    "glu, shared": {"d_shared": 12, "norm": "l1"},
}


def compress(kind: str, w: np.ndarray, rng: np.random.Generator) -> Weight:
    """About half of ``w`` (E, F, D) or (F, D) in the form ``kind``; the numbers that stay keep their bits."""
    if kind == "delta":
        lead, (f, d) = w.shape[:-2], w.shape[-2:]
        parts = (rng.standard_normal(s) / np.sqrt(d) for s in ((f, d), (*lead, f, 2), (*lead, 2, d)))
        return storage.Delta(*(frozen(a) for a in parts))
    if kind == "csr":
        return storage.csr.from_dense(w, rng.random(w.shape) < 0.5)
    if kind == "bsr":
        *lead, f, d = w.shape
        blocks = rng.random((*lead, f // BLOCK[0], d // BLOCK[1])) < 0.5
        return storage.bsr.from_dense(w, BLOCK, np.repeat(np.repeat(blocks, BLOCK[0], -2), BLOCK[1], -1))
    ranks = np.argsort(np.argsort(rng.random((*w.shape[:-1], w.shape[-1] // M, M)), axis=-1), axis=-1)
    return storage.nm.from_dense(w, N, M, (ranks < N).reshape(w.shape))


def sparse(f: Frame, kind: str, seed: int = 0) -> Frame:
    """The frame with every matrix of the experts (and of the shared one) stored as ``kind``."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    branches = {
        branch: {
            n: compress(kind, w, rng) if branch != "router" and n.endswith("_proj") else w for n, w in leaves.items()
        }
        for branch, leaves in f.p.items()
    }
    return f._replace(p=branches)


def dense(p: Any) -> dict[str, Any]:
    return tree.map(lambda w: w.dense() if isinstance(w, Weight) else w, p)


def crowded(cfg: MoEConfig, tokens: int = 7, seed: int = 0) -> Frame:
    """Expert 3 gets no token: its logit is far below the others'."""
    f = make(cfg, tokens, seed=seed)
    x, weight = f.x.copy(), f.p["router"]["weight"].copy()
    x[:, 0], weight[:, 0], weight[3, 0] = 2.0, 0.1, -4.0
    return f._replace(x=frozen(x), p={**f.p, "router": {**f.p["router"], "weight": frozen(weight)}})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_gradcheck(settings: dict[str, Any], kind: str) -> None:
    f = sparse(crowded(config(losses=("balance", "z"), **SIZES, **settings)), kind)
    arrays, templates = storage.split(f.p)
    assert f.forward()[0].routing.load[3] == 0
    report = verify.gradcheck(stored, f.x, arrays, f.cfg, templates, mode="gradient", controls=True)
    assert report.error <= 1e-13 and "planted faults caught" in report.notes[0]
    held = {f"{n}.{part}" for n, w in templates.items() for part in w.PARTS}
    assert held and held <= report.errors.keys() and report.zeros == ()


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_with_padding_draws_and_every_loss(kind: str) -> None:
    cfg = config(losses=ALL, noise="learned", jitter=0.25, **{**SIZES, "n_experts": 3})
    f = sparse(make(cfg, 5, mask=np.array([1, 1, 0, 1, 1], bool)), kind)
    arrays, templates = storage.split(f.p)
    report = verify.gradcheck(stored, f.x, arrays, cfg, templates, mask=f.mask, draws=f.draws, mode="jacobian")
    assert report.error <= 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_one_stored_value_is_caught(kind: str) -> None:
    """Negative control: 0.1 % off in the gradient of the first stored value of the way down."""
    f = sparse(crowded(config(losses=(), **SIZES)), kind)
    arrays, templates = storage.split(f.p)

    class Broken:
        forward = staticmethod(stored.forward)

        @staticmethod
        def backward(dy: Any, cache: Any) -> Any:
            dx, dp = stored.backward(dy, cache)
            name = next(iter(dp["experts"]["down_proj"]))
            g = dp["experts"]["down_proj"][name].copy()
            g.reshape(-1)[np.argmax(np.abs(g))] *= 1.001
            return dx, {**dp, "experts": {**dp["experts"], "down_proj": {**dp["experts"]["down_proj"], name: g}}}

    with pytest.raises(GradientError, match="down_proj"):
        verify.gradcheck(Broken, f.x, arrays, f.cfg, templates, mode="gradient")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_is_the_dense_layer_with_the_masked_weights(settings: dict[str, Any], kind: str) -> None:
    f = sparse(crowded(config(losses=ALL, **SIZES, **settings)), kind)
    whole = f._replace(p=dense(f.p))
    out, dx, dp = f.both()
    wanted, dx_wanted, dp_wanted = whole.both()
    assert np.array_equal(out.routing.idx, wanted.routing.idx)
    assert relative(out.y, wanted.y) <= 1e-13 < relative(1.001 * out.y, wanted.y)
    assert relative(dx, dx_wanted) <= 1e-13
    assert dp.keys() == dp_wanted.keys()
    stored_ones = 0
    for name, g in dp.items():
        w = tree.flatten(f.p)[name]
        if not isinstance(w, Weight):
            assert relative(g, dp_wanted[name]) <= 1e-13, name
            continue
        stored_ones += 1
        assert type(g) is type(w) and all(g.structure()[k] is v for k, v in w.structure().items())
        if kind == "delta":
            assert relative(g.mean, dp_wanted[name].sum(0) if w.ndim == 3 else dp_wanted[name]) <= 1e-13
            assert relative(g.a, dp_wanted[name] @ np.swapaxes(w.b, -1, -2)) <= 1e-13
            assert relative(g.b, np.swapaxes(w.a, -1, -2) @ dp_wanted[name]) <= 1e-13
        else:
            masked = np.where(w.mask(), dp_wanted[name], 0)  # G11
            assert relative(g.dense(), masked) <= 1e-13 < relative(1.001 * g.dense(), masked)
            if w.ndim == 3:
                assert not g.dense()[3].any(), "an expert without tokens gets exactly 0"
    assert stored_ones == (4 if f.cfg.d_shared else 2)


@pytest.mark.parametrize("kind", ("csr", "bsr", "nm"))
@pytest.mark.parametrize("gated", [False, True])
def test_integer_values_give_the_same_bits(gated: bool, kind: str) -> None:
    """P11 where every sum is exact: relu, whole numbers, gates that are powers of two."""
    cfg = config(gated=gated, activation="relu", d_shared=12, losses=(), norm="l1", **{**SIZES, "n_experts": 2})
    f = make(cfg, 7)
    rng = np.random.default_rng(3)

    def whole(a: np.ndarray) -> np.ndarray:
        return frozen(rng.integers(-2, 3, a.shape).astype(np.float64))

    p = tree.map(whole, f.p)
    p["router"]["weight"] = frozen(np.zeros_like(f.p["router"]["weight"]))  # all scores equal: g = 1/2 each
    f = sparse(f._replace(x=whole(f.x), dy=whole(f.dy), p=p), kind)
    full = f._replace(p=dense(f.p))
    (out, dx, dp), (wanted, dx_wanted, dp_wanted) = f.both(), full.both()
    assert np.array_equal(out.y, wanted.y) and np.array_equal(dx, dx_wanted) and np.abs(out.y).max() > 8
    for name, g in dp.items():
        if isinstance(g, Weight):
            assert np.array_equal(g.dense(), np.where(g.mask(), dp_wanted[name], 0)), name
        else:
            assert np.array_equal(g, dp_wanted[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind: str) -> None:
    f = sparse(crowded(config(losses=(), bias=True, d_shared=12, **SIZES)), kind)
    low = f._replace(
        x=f.x.astype("f4"),
        dy=f.dy.astype("f4"),
        p=tree.map(
            lambda w: (
                w.like({k: v.astype("f4") for k, v in w.parts().items()}) if isinstance(w, Weight) else w.astype("f4")
            ),
            f.p,
        ),
    )
    out, dx, dp = low.both()
    wanted, dx_wanted, _ = f.both()
    assert out.y.dtype == dx.dtype == np.float32 and all(g.dtype == np.float32 for g in dp.values())
    assert relative(out.y, wanted.y) <= 64 * 2.0**-24 and relative(dx, dx_wanted) <= 64 * 2.0**-24


def test_one_matrix_may_be_stored_and_the_other_dense() -> None:
    f = crowded(config(losses=(), **SIZES))
    mixed = sparse(f, "csr")
    for name in ("gate_up_proj", "down_proj"):
        p = {**f.p, "experts": {**f.p["experts"], name: mixed.p["experts"][name]}}
        _, _, dp = f._replace(p=p).both()
        assert isinstance(dp[f"experts.{name}"], storage.CSR)
        assert sum(isinstance(g, Weight) for g in dp.values()) == 1
        arrays, templates = storage.split(p)
        assert verify.gradcheck(stored, f.x, arrays, f.cfg, templates, mode="gradient").error <= 1e-13


@pytest.mark.parametrize("kind", ("csr", "bsr", "nm"))
def test_all_weights_zero(kind: str) -> None:
    f = make(config(losses=(), **SIZES))

    def empty(w: np.ndarray) -> Weight:
        none = np.zeros(w.shape, bool)
        if kind == "csr":
            return storage.csr.from_dense(w, none)
        return storage.bsr.from_dense(w, BLOCK, none) if kind == "bsr" else storage.nm.from_dense(w, 0, M, none)

    p = {**f.p, "experts": {n: empty(w) for n, w in f.p["experts"].items()}}
    out, dx, dp = f._replace(p=p).both()
    assert not out.y.any() and not dx.any() and dp["experts.down_proj"].nnz == 0


def test_tied_experts_may_be_stored() -> None:
    """G12: the gradient of a stored expert that several ids share is the sum over them."""
    cfg = config(losses=(), **SIZES)
    tied = MoEConfig(**{**{k: getattr(cfg, k) for k in ("d_model", "d_ff", "router")}, "tied": (0, 1, 0, 2, 1)})
    f = make(tied)
    f = sparse(f, "csr")
    arrays, templates = storage.split(f.p)
    assert verify.gradcheck(stored, f.x, arrays, tied, templates, mode="gradient", controls=True).error <= 1e-13


def test_what_is_refused() -> None:
    f = sparse(make(config(**SIZES)), "csr")
    router = {**f.p["router"], "weight": storage.csr.from_dense(f.p["router"]["weight"])}
    with pytest.raises(DtypeError, match="router.weight must be an array"):
        f._replace(p={**f.p, "router": router}).forward()
    with pytest.raises(ShapeError, match="experts.down_proj"):
        f._replace(p={**f.p, "experts": {**f.p["experts"], "down_proj": f.p["experts"]["gate_up_proj"]}}).forward()
    arrays, templates = storage.split(f.p)
    with pytest.raises(ShapeError, match="experts.down_proj"):
        stored.forward(f.x, arrays, f.cfg, {k: v for k, v in templates.items() if k != "experts.down_proj"})
    with pytest.raises(ConfigError, match="dlosses"):
        stored.backward(f.dy, stored.forward(f.x, arrays, f.cfg, templates)[1], 1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"p.experts.gate_up_proj, p.experts.down_proj is stored as a CSR"):
        verify.gradcheck(moe, f.x, f.p, f.cfg)  # it would pass without a look at their values
    assert moe.stored is stored
