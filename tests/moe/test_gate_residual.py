"""The gate residual: two inputs under the complex step, two layers as one, a loop, padding, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pymoe import moe, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, ShapeError
from pymoe.moe import Given, RouterConfig, router

from .frames import U64, config, frozen, make, relative

CFG = config(gate_residual=True, norm="l1", null_experts=("copy",), losses=("balance", "z"), soft_cap=3.0, scale=1.5)
N = 7  # E and a null expert
PREVIOUS = frozen(np.random.default_rng(1).standard_normal((5, N)))


def subject(cfg: Any, mask: Any) -> Any:
    def forward(x: Any, p: Any, previous: Any) -> Any:
        out, cache = moe.forward(x, p, cfg, mask, given=Given(logits=previous))
        return (out.y, out.routing.logits, out.losses["z"]), cache

    def backward(dy: Any, cache: Any) -> Any:
        dx, dp, dprevious = moe.backward(dy[0], cache, {"z": dy[2]}, dlogits=dy[1])
        return dx, {"p": dp, "previous": dprevious}

    return SimpleNamespace(__name__="gate residual", forward=forward, backward=backward)


@pytest.mark.parametrize("masked", [None, True])
def test_gradients(masked: Any) -> None:
    f = make(CFG, 5, mask=masked)
    previous = PREVIOUS if f.mask is None else np.where(f.mask[:, None], PREVIOUS, 0.0)
    report = verify.gradcheck(subject(CFG, f.mask), f.x, f.p, previous, controls=masked is None, mode="gradient")
    assert report.error <= 1e-13


def test_logits_by_hand() -> None:
    f = make(CFG, 5)
    w, r = f.p["router"]["weight"], f.p["router"]["residual_weight"]
    out, _ = moe.forward(f.x, f.p, CFG, given=Given(logits=PREVIOUS))
    for t in range(5):
        for e in range(N):
            z = sum(w[e, i] * f.x[t, i] for i in range(3)) + sum(r[e, i] * PREVIOUS[t, i] for i in range(N))
            assert abs(out.routing.logits[t, e] - 3.0 * np.tanh(z / 3.0)) <= 16 * U64
    first, cache = moe.forward(f.x, f.p, CFG)  # the first layer of a stack
    assert relative(first.routing.logits, 3.0 * np.tanh(f.x @ w.T / 3.0)) <= 16 * U64
    assert not moe.backward(f.dy, cache)[1]["router"]["residual_weight"].any()


def test_two_layers_in_a_row() -> None:
    """What the second layer sends back is what the first one is told; together they pass the complex step."""
    f = make(CFG, 5)
    second = tree.map(lambda a: frozen(a[..., ::-1] * 0.75), f.p)

    def forward(x: Any, p: Any, q: Any) -> Any:
        a, c_a = moe.forward(x, p, CFG)
        b, c_b = moe.forward(a.y, q, CFG, given=Given(logits=a.routing.logits))
        return b.y, (c_a, c_b)

    def backward(dy: Any, cache: Any) -> Any:
        dm, dq, dlogits = moe.backward(dy, cache[1])
        dx, dp = moe.backward(dm, cache[0], dlogits=dlogits)
        return dx, {"p": dp, "q": dq}

    two = SimpleNamespace(__name__="two layers", forward=forward, backward=backward)
    assert verify.directional(two, f.x, f.p, second, directions=3).error <= 1e-13


def test_padding_neither_sends_nor_gets_anything() -> None:
    f = make(CFG, (1, 5), mask=True)
    dirty = np.where(f.mask[..., None], PREVIOUS[None], np.nan)
    out, cache = moe.forward(f.x, f.p, CFG, f.mask, given=Given(logits=dirty))
    dx, _, dprevious = moe.backward(f.dy, cache, f.dlosses)
    assert np.isfinite(out.y).all() and np.isfinite(dx).all()
    assert not dprevious[~f.mask[0]].any() and dprevious[f.mask[0]].any()


def test_what_is_refused() -> None:
    f = make(CFG, 5)
    plain = make(config(), 5)
    with pytest.raises(ConfigError, match="go with gate_residual=True"):
        moe.forward(plain.x, plain.p, plain.cfg, given=Given(logits=PREVIOUS))
    with pytest.raises(ShapeError, match="given.logits"):
        moe.forward(f.x, f.p, CFG, given=Given(logits=PREVIOUS[:, :6]))
    with pytest.raises(ShapeError, match="given.logits"):
        moe.forward(f.x, f.p, CFG, given=Given(logits=PREVIOUS[None, :4]))
    with pytest.raises(DtypeError, match="given.logits must be floating point"):
        moe.forward(f.x, f.p, CFG, given=Given(logits=np.ones((5, N), int)))
    with pytest.raises(ConfigError, match="not with the logits of shared experts"):
        RouterConfig(4, 2, score="sigmoid", norm="joint", n_shared_logits=2, gate_residual=True)
    assert "previous" not in router.backward(np.ones((5, 2)), {}, moe.forward(f.x, f.p, CFG)[1].router)[1]
