"""ReMoE: a loop over tokens, the L1 loss and its coefficient, and the sets that are on."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError
from pymoe.moe.rules import remoe
from pymoe.moe.rules.remoe import Config

from ...oracles.expert_loops import expert_at, expert_forward
from ...oracles.scalar_math import dot
from ..frames import relative
from . import bench

OPTIONS = [
    Config(3, 4, 6, k=2),
    Config(3, 4, 5, k=1, balanced=False, bias=True),
    Config(3, 2, 4, k=4, gated=False, activation="gelu"),
]


@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_loop(cfg: Config) -> None:
    x, p = bench.tokens(11, 3), bench.parameters(remoe, cfg)
    out, _ = remoe.forward(x, p, cfg)
    r, count = np.zeros((11, cfg.n_experts)), np.zeros(cfg.n_experts)
    for t in range(11):
        y = np.zeros(3)
        for e, row in enumerate(p["router"]["weight"].tolist()):
            z = dot(row, x[t].tolist())
            assert out.routing.kept[t, e] == (z > 0)
            if z > 0:
                form = {"gated": cfg.gated, "activation": cfg.activation}
                y += z * np.array(expert_forward(x[t].tolist(), expert_at(tree.flatten(p), "experts", e), form)[0])
                r[t, e], count[e] = z, count[e] + 1
        assert relative(out.y[t], y) <= 1e-13
    assert relative(out.routing.weight, r) <= 1e-14 and out.routing.load.tolist() == count.tolist()
    f = cfg.n_experts / (cfg.k * 11) * count if cfg.balanced else np.ones(cfg.n_experts)
    assert relative(out.losses["l1"], np.mean(f * r)) <= 1e-14
    assert out.sparsity == pytest.approx(np.mean(r == 0), abs=1e-15)


@pytest.mark.parametrize("mask", [None, bench.MASK], ids=["all", "padding"])
@pytest.mark.parametrize("cfg", OPTIONS, ids=range(len(OPTIONS)))
def test_gradients(cfg: Config, mask: np.ndarray | None) -> None:
    bench.gradients(remoe, cfg, mask=mask)


def test_padding_few_tokens_bad_input() -> None:
    cfg = OPTIONS[1]
    bench.padding(remoe, cfg, ("l1",))
    bench.padding(remoe, OPTIONS[0], ("l1",))
    bench.few_tokens(remoe, cfg)
    bench.bad_input(remoe, cfg, "remoe")
    bench.float32(remoe, cfg)
    x, p = bench.tokens(7, 3), bench.parameters(remoe, cfg)
    masked, _ = remoe.forward(x, p, cfg, bench.MASK)
    assert masked.sparsity == remoe.forward(x[bench.MASK], p, cfg)[0].sparsity


def test_zero_is_off_and_an_expert_without_tokens_has_no_gradient() -> None:
    cfg = Config(1, 2, 3)
    p = bench.parameters(remoe, cfg)
    p = {**p, "router": {"weight": np.array([[0.0], [2.0], [-2.0]])}}
    out, _, dp = bench.both(remoe, cfg, np.ones((4, 1)), p, np.ones((4, 1)), {"l1": 1.0})
    assert out.routing.kept.tolist() == [[False, True, False]] * 4 and out.sparsity == 1 - 4 / 12
    for name in ("router.weight", "experts.gate_up_proj", "experts.down_proj"):
        assert not dp[name][[0, 2]].any() and dp[name][1].any()
    everything = {**p, "router": {"weight": -np.ones((3, 1))}}
    out, dx, dp = bench.both(remoe, cfg, np.ones((4, 1)), everything, np.ones((4, 1)), {"l1": 1.0})
    assert not out.y.any() and not dx.any() and out.sparsity == 1 and not any(g.any() for g in dp.values())


def test_the_coefficient_finds_the_sparsity() -> None:
    cfg = Config(3, 4, 8, k=2, start=1.0, factor=2.0)
    assert [remoe.update(3.0, s, cfg) for s in (0.7, 0.75, 0.8)] == [6.0, 3.0, 1.5]
    assert Config(3, 4, 8).start == 1e-8 and Config(3, 4, 8).factor == 1.2 and Config(3, 4, 8).balanced


def test_the_loss_of_one_token() -> None:
    cfg = Config(1, 2, 3, k=1)
    p = {**bench.parameters(remoe, cfg), "router": {"weight": np.array([[4.0], [2.0], [-2.0]])}}
    out, _ = remoe.forward(np.ones((1, 1)), p, cfg)
    assert float(out.losses["l1"]) == 3 * (4 + 2) / 3 and out.sparsity == 1 - 2 / 3


def test_refused() -> None:
    for settings, words in (
        ({"k": 5}, "k must not exceed the 4"),
        ({"start": -1.0}, "start must be"),
        ({"factor": 0.9}, "factor must be a finite number and at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            Config(**{"d_model": 3, "d_ff": 4, "n_experts": 4, **settings})
    cfg = OPTIONS[0]
    x = np.where(np.arange(7)[:, None] == 3, np.nan, bench.tokens(7, 3))
    with pytest.raises(NonFiniteError, match="remoe: the logit is nan at .token 3, expert 0."):
        remoe.forward(x, bench.parameters(remoe, cfg), cfg)
