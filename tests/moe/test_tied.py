"""Tied experts: several ids of the router stand for one stored expert, whose gradient is the sum over them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import moe, presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.moe import MoEConfig

D, F, E, K, T = 5, 6, 7, 3, 11
TIED = (1, 0, 1, 2, 1, 0, 2)


def settings(**changes) -> MoEConfig:
    return presets.mixtral(d_model=D, d_ff=F, n_experts=E, k=K, **changes)


def parameters(cfg: MoEConfig, seed: int = 0):
    p = moe.init(np.random.default_rng(seed), cfg)
    for name, leaf in tree.flatten(p).items():
        if name.endswith("bias"):
            leaf[...] = np.random.default_rng(seed + 1).standard_normal(leaf.shape)
        leaf.setflags(write=False)
    return p


def x_of(seed: int = 3) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((T, D))
    x.setflags(write=False)
    return x


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"gated": False}, {"d_shared": 4}])
def test_the_layer_is_the_untied_one_with_copied_experts_and_its_gradient_the_sum(changes):
    tied = settings(**changes, tied=TIED)
    p, x = parameters(tied), x_of()
    assert p["experts"]["down_proj"].shape == (3, D, F)
    plain = dataclasses.replace(tied, tied=None)
    q = p | {"experts": {name: a[list(TIED)] for name, a in p["experts"].items()}}
    (out, cache), (want, untied) = moe.forward(x, p, tied), moe.forward(x, q, plain)
    assert np.array_equal(out.routing.idx, want.routing.idx) and np.array_equal(out.routing.load, want.routing.load)
    np.testing.assert_allclose(out.y, want.y, rtol=0, atol=1e-14 * np.abs(want.y).max())
    assert {k: float(v) for k, v in out.losses.items()} == {k: float(v) for k, v in want.losses.items()}
    dy = np.random.default_rng(5).standard_normal((T, D))
    dx, dp = moe.backward(dy, cache, {"balance": 0.3})
    dx_want, dq = moe.backward(dy, untied, {"balance": 0.3})
    np.testing.assert_allclose(dx, dx_want, rtol=0, atol=1e-14 * np.abs(dx_want).max())
    for name, got in dp["experts"].items():
        summed = np.zeros_like(got)
        for e, g in enumerate(TIED):
            summed[g] += dq["experts"][name][e]
        scale = np.abs(summed).max()
        assert np.abs(got - summed).max() <= 1e-13 * scale
        assert np.abs(1.001 * got - summed).max() > 1e-4 * scale  # negative control


@pytest.mark.parametrize("changes", [{}, {"bias": True}, {"gated": False}])
def test_gradients(changes):
    cfg = settings(**changes, tied=TIED)
    assert verify.gradcheck(moe, x_of(), parameters(cfg), cfg, controls=True).error <= 1e-13


def test_one_token_may_choose_one_stored_expert_twice():
    cfg = settings(tied=(0,) * E)
    p, x = parameters(cfg), x_of()
    out, _ = moe.forward(x, p, cfg)
    one = dataclasses.replace(cfg, router=dataclasses.replace(cfg.router, n_experts=1, k=1), tied=None)
    q = p | {"router": {"weight": p["router"]["weight"][:1]}}
    want, _ = moe.forward(x, q, one)  # the weights of a token sum to 1, whatever the router says
    np.testing.assert_allclose(out.y, want.y, rtol=0, atol=1e-14 * np.abs(want.y).max())


def test_the_settings_survive_a_file():
    cfg = settings(tied=TIED)
    assert MoEConfig.from_dict(cfg.to_dict()) == cfg and cfg.n_stored == 3
    values = cfg.to_dict()
    del values["tied"]  # of a checkpoint written before there were tied experts
    assert MoEConfig.from_dict(values) == settings()


@pytest.mark.parametrize(
    "tied", [(0,) * 6, (0, 1, 3, 3, 3, 3, 3), (1,) * 7, (0, 1, 2, 3, 4, 5, -1), (0, 1.0) * 3 + (1,)]
)
def test_what_is_no_tying_is_refused(tied):
    with pytest.raises(ConfigError, match="tied"):
        settings(tied=tied)
