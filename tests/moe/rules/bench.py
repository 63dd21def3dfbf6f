"""What every rule has to pass: the complex step with controls, padding, no and one token, empty experts, bad input."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, ShapeError

from ..frames import bits, frozen, relative

U64 = 2.0**-53


def parameters(rule: Any, cfg: Any, seed: int = 0, spread: float = 1.0) -> dict[str, Any]:
    """Parameters none of which is zero or constant."""
    rng = np.random.default_rng([seed, 5])
    return tree.map(
        lambda a: frozen(rng.standard_normal(a.shape) * (spread / np.sqrt(max(a.shape[-1], 1)))),
        rule.init(np.random.default_rng(0), cfg),
    )


def tokens(shape: int | tuple[int, ...], width: int, seed: int = 0) -> np.ndarray:
    lead = (shape,) if isinstance(shape, int) else shape
    return frozen(np.random.default_rng([seed, 6]).standard_normal((*lead, width)))


MASK = frozen(np.array([1, 1, 0, 1, 1, 0, 1], bool))


def gradients(
    rule: Any,
    cfg: Any,
    n: Any = 7,
    *,
    mask: Any = None,
    draws: Any = None,
    seed: int = 0,
    p: Any = None,
    x: Any = None,
    **more: Any,
):
    """The gradient check with its controls: every tensor within 1e-13 of its maximum."""
    x = tokens(n, cfg.d_model, seed) if x is None else x
    p = parameters(rule, cfg, seed) if p is None else p
    report = verify.gradcheck(rule, x, p, cfg, mask=mask, draws=draws, **{"controls": True, **more})
    assert report.error <= 1e-13
    return report


def both(rule: Any, cfg: Any, x: Any, p: Any, dy: Any, dlosses: Any = None, **more: Any):
    """(out, dx, flat gradients)."""
    out, cache = rule.forward(x, p, cfg, **more)
    dx, dp = rule.backward(dy, cache, dlosses)
    return out, dx, tree.flatten(dp)


def padding(rule: Any, cfg: Any, losses: tuple[str, ...] = (), draws: Any = None, **more: Any) -> None:
    """Padding gives y = 0 and dx = 0 exactly, whatever stands in it, and the others what they give alone.

    ``draws``: the draws of some of the seven tokens, from a boolean index.
    """
    x, p = tokens(7, cfg.d_model, 3), parameters(rule, cfg, 3)
    dirty = np.array(x)
    dirty[~MASK] = np.nan
    dy = np.random.default_rng(9).standard_normal(x.shape)
    dlosses = {name: 0.7 for name in losses}
    given = {} if draws is None else {"draws": draws(np.ones(7, bool))}
    out, dx, dp = both(rule, cfg, dirty, p, dy, dlosses, mask=MASK, **given, **more)
    assert not out.y[~MASK].any() and not dx[~MASK].any()
    if hasattr(out, "routing") and out.routing.kept is not None:
        assert not out.routing.kept[~MASK].any() and not out.routing.weight[~out.routing.kept].any()
    given = {} if draws is None else {"draws": draws(MASK)}
    alone, dx_alone, dp_alone = both(rule, cfg, x[MASK], p, dy[MASK], dlosses, **given, **more)
    assert relative(out.y[MASK], alone.y) <= 64 * U64 and relative(dx[MASK], dx_alone) <= 256 * U64
    for name in losses:
        assert relative(out.losses[name], alone.losses[name]) <= 64 * U64
    for name, g in dp.items():
        assert relative(g, dp_alone[name]) <= 256 * U64, name
    none = np.zeros(7, bool)
    given = {} if draws is None else {"draws": draws(np.ones(7, bool))}
    out, dx, dp = both(rule, cfg, dirty, p, dy, dlosses, mask=none, **given, **more)
    assert not out.y.any() and not dx.any() and not any(g.any() for g in dp.values())
    assert all(float(v) == 0 for v in out.losses.values())


def few_tokens(rule: Any, cfg: Any, draws: Any = None, **more: Any) -> None:
    """No token: empty, zero gradients, losses 0.  One token, and a batch of sequences, run and keep their shapes."""
    p = parameters(rule, cfg)
    for shape in ((0,), (1,), (2, 3), (2, 0)):
        x = tokens(shape, cfg.d_model)
        given = {} if draws is None else {"draws": draws(int(np.prod(shape)))}
        out, cache = rule.forward(x, p, cfg, **given, **more)
        dx, dp = rule.backward(np.ones_like(x), cache, dict.fromkeys(out.losses, 1.0))
        assert out.y.shape == dx.shape == x.shape and dp.keys() == p.keys()
        flat, wanted = tree.flatten(dp), tree.flatten(p)
        assert {n: g.shape for n, g in flat.items()} == {n: g.shape for n, g in wanted.items()}
        if not x.size:
            assert not any(g.any() for g in flat.values()) and all(float(v) == 0 for v in out.losses.values())
        assert all(np.isfinite(g).all() for g in flat.values()) and np.isfinite(out.y).all()


def bad_input(rule: Any, cfg: Any, name: str, **more: Any) -> None:
    """Each error names the rule and what came."""
    with pytest.raises(ConfigError, match="d_ff must be"):
        dataclasses.replace(cfg, d_ff=0)
    x, p = tokens(7, cfg.d_model), parameters(rule, cfg)
    with pytest.raises(ShapeError, match=f"{name}: x must have shape"):
        rule.forward(tokens(7, cfg.d_model + 1), p, cfg, **more)
    with pytest.raises(ShapeError, match=f"{name}: x must have shape"):
        rule.forward(x[0], p, cfg, **more)
    with pytest.raises(DtypeError, match=f"{name}: x must be floating"):
        rule.forward(np.ones(x.shape, int), p, cfg, **more)
    with pytest.raises(ShapeError, match=f"{name}: mask must have shape"):
        rule.forward(x, p, cfg, mask=np.ones(6, bool), **more)
    with pytest.raises(DtypeError, match=f"{name}: mask must be bool"):
        rule.forward(x, p, cfg, mask=np.ones(7), **more)
    flat = tree.flatten(p)
    first = next(iter(flat))
    with pytest.raises(ShapeError, match=f"{name}: .*missing.*{first}"):
        rule.forward(x, tree.unflatten({n: a for n, a in flat.items() if n != first} | {"more.one": x}), cfg, **more)
    with pytest.raises(ShapeError, match=f"{name}: {first} must have shape"):
        rule.forward(x, tree.unflatten(flat | {first: flat[first][:0]}), cfg, **more)
    _, cache = rule.forward(x, p, cfg, **more)
    with pytest.raises(ShapeError, match=f"{name}: dy must have shape"):
        rule.backward(x[:3], cache)
    with pytest.raises(DtypeError, match=f"{name}: dy must be floating"):
        rule.backward(np.ones(x.shape, int), cache)
    with pytest.raises(ShapeError, match=f"{name}: no such loss here: .'blance'"):
        rule.backward(x, cache, {"blance": 1.0})


def float32(rule: Any, cfg: Any, n: int = 7, *, seed: int = 2, **more: Any) -> None:
    """In single precision all that comes back is single, and near the double result; dy of float64 changes nothing.

    seed: where no gradient cancels to a fraction of its summands.
    """
    x, p = (
        tokens(n, cfg.d_model, seed).astype(np.float32),
        tree.map(lambda a: a.astype(np.float32), parameters(rule, cfg, seed)),
    )
    dy = np.random.default_rng(3).standard_normal(x.shape).astype(np.float32)
    out, dx, dp = both(rule, cfg, x, p, dy, **more)
    assert out.y.dtype == dx.dtype == np.float32 and {g.dtype for g in dp.values()} == {np.dtype(np.float32)}
    again = both(rule, cfg, x, p, dy.astype(np.float64), **more)
    assert bits(again[1]) == bits(dx)
    wide = both(
        rule, cfg, x.astype(np.float64), tree.map(lambda a: a.astype(np.float64), p), dy.astype(np.float64), **more
    )
    assert relative(out.y, wide[0].y) <= 2e-5 and relative(dx, wide[1]) <= 2e-5
    for name, g in dp.items():
        assert relative(g, wide[2][name]) <= 2e-5, name
