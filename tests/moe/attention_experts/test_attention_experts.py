"""MoA and SwitchHead under the complex step, by per-token loops, and in what they must leave alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from pymoe.moe import Capacity, RouterConfig
from pymoe.moe.attention_experts import moa, spread, switch_head

from ...oracles import attention_expert_loops as loops
from ..frames import U32, U64, frozen, relative

B, S, D, E = 2, 5, 3, 4
MASK = frozen(np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool))


def moa_config(**own: Any) -> moa.Config:
    router = {n: own.pop(n) for n in list(own) if n in RouterConfig.__dataclass_fields__}
    return moa.Config(
        D, 2, 2, RouterConfig(E, **{"k": 2, "score_at": "chosen", "losses": ("balance", "z"), **router}), **own
    )


def switch_config(**own: Any) -> switch_head.Config:
    return switch_head.Config(**{"d_model": D, "n_heads": 2, "d_head": 4, "n_experts": 3, "k": 2, **own})


MOA = {
    "jetmoe": (moa_config(bias=True), None),
    "padding": (moa_config(bias=True), MASK),
    "no positions, both ways": (moa_config(rope_base=None, causal=False, score="sigmoid", score_at="all"), None),
    "dropped": (moa_config(score_at="all", norm="l1", capacity=Capacity(factor=0.5, minimum=1)), None),
    "one expert": (moa_config(k=1, score="sigmoid", score_at="all"), MASK),
}
SWITCH = {
    "values and outputs": (switch_config(), None),
    "padding": (switch_config(), MASK),
    "all four": (switch_config(experts_on=("q", "k", "v", "o")), MASK),
    "queries and keys": (switch_config(experts_on=("q", "k"), k=1, causal=False, rope_base=None), None),
    "outputs": (switch_config(experts_on=("o",), k=3, rope_base=100.0), None),
}
CASES = {f"moa {n}": (moa, *c) for n, c in MOA.items()} | {
    f"switch head {n}": (switch_head, *c) for n, c in SWITCH.items()
}


def made(module: Any, cfg: Any, b: int = B, s: int = S, seed: int = 0) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    rng = np.random.default_rng([seed, 5])
    p = tree.map(lambda a: frozen(rng.standard_normal(a.shape) / np.sqrt(a.shape[-1])), module.init(rng, cfg))
    return frozen(rng.standard_normal((b, s, D))), p, frozen(rng.standard_normal((b, s, D)))


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    module, cfg, mask = CASES[name]
    x, p, _ = made(module, cfg, s=4 if mask is None else S)
    assert verify.directional(module, x, p, cfg, mask=mask, directions=3).error <= 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_entry_and_planted_faults(name: str) -> None:
    module, cfg, mask = CASES[name]
    x, p, _ = made(module, cfg, s=3 if mask is None else S)
    controls = name in ("moa jetmoe", "switch head values and outputs")
    report = verify.gradcheck(module, x, p, cfg, mask=mask, mode="gradient", controls=controls)
    assert report.error <= 1e-13 and (not controls or "planted faults caught" in report.notes[0])


def choices_of(module: Any, out: Any, mask: np.ndarray | None, b: int, s: int) -> list[Any]:
    """The decisions and weights in the words of the loops, a sequence at a time."""
    real = np.ones((b, s), bool) if mask is None else mask
    if module is moa:
        r = out.routing
        kept = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
        flat = [
            [(int(e), float(w)) for e, w, k in zip(*row, strict=True) if k]
            for row in zip(r.idx, r.weight, kept, strict=True)
        ]
        return [flat[i * s : (i + 1) * s] for i in range(b)]
    by_side = {
        side: [
            [[(int(e), float(w)) for e, w in zip(*head, strict=True)] if real.reshape(-1)[t] else []
             for head in zip(c.idx[t], c.weight[t], strict=True)]
            for t in range(b * s)
        ]
        for side, c in out.routing.items()
    }  # fmt: skip
    return [{side: rows[i * s : (i + 1) * s] for side, rows in by_side.items()} for i in range(b)]


def against_loops(name: str, single: bool = False) -> dict[str, float]:
    module, cfg, mask = CASES[name]
    b, s, mask = (1, 4, None) if mask is None else (1, S, frozen(mask[:1]))
    x, p, dy = made(module, cfg, b, s)
    if single:
        x, dy = (frozen(a.astype(np.float32)) for a in (x, dy))
        p = tree.map(lambda a: frozen(a.astype(np.float32)), p)
    out, cache = module.forward(x, p, cfg, mask)
    seen: dict[str, Any] = {}
    of = moa.router if module is moa else switch_head.weigh
    backward = of.backward

    def spy(dg: Any, *rest: Any, **named: Any) -> Any:
        seen.setdefault("dg", []).append(dg)
        return backward(dg, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of, "backward", spy)
        _, dp = module.backward(dy, cache)
    real = np.ones((b, s), bool) if mask is None else mask
    own = {"heads": cfg.n_heads, "d": cfg.d_head, "causal": cfg.causal, "base": cfg.rope_base, "real": real.tolist()}
    layer = loops.moa if module is moa else loops.switch_head
    own |= {} if module is moa else {"on": cfg.experts_on}
    params = {n: np.asarray(a, float) for n, a in p.items() if n != "router"}
    given = np.where(real[:, :, None], x.astype(float), 0.0)
    choices = choices_of(module, out, mask, b, s)
    want = loops.gradient(layer, given, choices, params, own, dy.astype(float).tolist())
    q = {n: loops.complexes(a) for n, a in params.items()}
    sequences = zip(given, choices, own["real"], strict=True)
    y = [layer(loops.complexes(v), loops.listed(c), q, {**own, "real": r}) for v, c, r in sequences]
    if module is moa:
        kept = np.ones(out.routing.idx.shape, bool) if out.routing.kept is None else out.routing.kept
        weights = seen["dg"][0][kept]
    else:  # the loops list a sequence at a time, both sides of it
        parts = [
            np.reshape(a, (b, -1))[i][np.repeat(real[i], cfg.n_heads * cfg.k)] for i in range(b) for a in seen["dg"]
        ]
        weights = np.concatenate(parts)
    errors = {"y": relative(out.y, np.real(y)), "weight": relative(weights, want["weight"])}
    for n in params:
        errors[n] = relative(dp[n], np.reshape(want[n], dp[n].shape))
    return errors


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_loops(name: str) -> None:
    wrong = {n: e / U64 for n, e in against_loops(name).items() if not e <= 64 * U64}
    assert not wrong, wrong


@pytest.mark.parametrize("name", list(CASES)[::3])
def test_float32_stays_within_64_units(name: str) -> None:
    wrong = {n: e / U32 for n, e in against_loops(name, single=True).items() if not e <= 64 * U32}
    assert not wrong, wrong


@pytest.mark.parametrize("name", ["moa padding", "switch head padding", "switch head all four"])
def test_padding_changes_nothing_and_gets_nothing(name: str) -> None:
    module, cfg, _ = CASES[name]
    x, p, dy = made(module, cfg)
    dirty, upstream = x.copy(), dy.copy()
    dirty[~MASK], upstream[~MASK] = np.nan, np.inf
    (out, cache), (clean, other) = module.forward(dirty, p, cfg, MASK), module.forward(x, p, cfg, MASK)
    assert out.y.tobytes() == clean.y.tobytes() and not out.y[~MASK].any()
    (dx, dp), (want_dx, want) = module.backward(upstream, cache), module.backward(dy, other)
    assert dx.tobytes() == want_dx.tobytes() and not dx[~MASK].any()
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(tree.flatten(dp).values(), tree.flatten(want).values(), strict=True)
    )


def test_an_expert_without_rows_gets_exactly_zero() -> None:
    cfg = moa_config(k=1, score="sigmoid", score_at="all", losses=())
    x, p, dy = made(moa, cfg)
    weight = np.zeros((E, D))
    weight[2] = [8.0, 0.0, 0.0]
    x = frozen(np.abs(x))
    out, cache = moa.forward(x, {**p, "router": {"weight": weight}}, cfg)
    _, dp = moa.backward(dy, cache)
    assert out.routing.load.tolist() == [0, 0, B * S, 0]
    for n in ("q_proj", "o_proj"):
        assert not dp[n][[0, 1, 3]].any() and dp[n][2].any()


def test_the_future_is_not_seen() -> None:
    for name, (module, cfg, _) in CASES.items():
        if not cfg.causal or name == "moa dropped":
            continue
        x, p, _ = made(module, cfg)
        other = x.copy()
        other[:, 3:] += 1.0
        now, later = module.forward(x, p, cfg)[0].y, module.forward(frozen(other), p, cfg)[0].y
        assert relative(later[:, :3], now[:, :3]) <= 4 * U64 and relative(later[:, 3:], now[:, 3:]) > 1e-3


def test_one_expert_of_weight_one_is_plain_attention() -> None:
    """MoA with E = K = 1 and a softmax over the one chosen is multi-head attention with its own projections."""
    from pymoe.nn import self_attention

    cfg = moa.Config(D, 2, 2, RouterConfig(1, 1, score_at="chosen", losses=()))
    x, p, dy = made(moa, cfg)
    dense = self_attention.SelfAttentionConfig(D, 2, head_dim=2)
    q = {"qkv_proj": np.concatenate([p["q_proj"][0], p["kv_proj"]]), "o_proj": p["o_proj"][0]}
    (out, cache), (want, other) = moa.forward(x, p, cfg), self_attention.forward(x, q, dense)
    assert relative(out.y, want) <= 16 * U64
    (dx, dp), (want_dx, d) = moa.backward(dy, cache), self_attention.backward(dy, other)
    assert relative(dx, want_dx) <= 64 * U64 and not dp["router"]["weight"].any()
    assert relative(np.concatenate([dp["q_proj"][0], dp["kv_proj"]]), d["qkv_proj"]) <= 64 * U64


@pytest.mark.parametrize(("b", "s"), [(0, 3), (2, 0), (1, 1)])
@pytest.mark.parametrize("name", ["moa jetmoe", "switch head values and outputs"])
def test_sizes(name: str, b: int, s: int) -> None:
    module, cfg, _ = CASES[name]
    x, p, dy = made(module, cfg, b, s)
    out, cache = module.forward(x, p, cfg)
    dx, dp = module.backward(dy, cache)
    assert out.y.shape == dx.shape == (b, s, D)
    assert tree.map(np.shape, dp) == tree.map(np.shape, p)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (moa_config, {"null_experts": ("zero",)}, "leave null_experts"),
    (moa_config, {"select": "expert_choice", "score_at": "all"}, "expert_choice"),
    (moa_config, {"scale_at": "output"}, "scale_at='weights'"),
    (moa_config, {"rope_base": 1.0}, "rope_base > 1"),
    (switch_config, {"d_head": 3}, "even d_head"),
    (switch_config, {"k": 4}, "4"),
    (switch_config, {"experts_on": ()}, "experts_on names some of"),
    (switch_config, {"experts_on": ("v", "v")}, "each once"),
    (switch_config, {"experts_on": ("w",)}, "experts_on names some of"),
    (switch_config, {"n_heads": 0}, "n_heads must be an integer"),
]


@pytest.mark.parametrize(("make", "settings", "message"), BAD)
def test_settings_that_have_no_meaning(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


@pytest.mark.parametrize("name", ["moa jetmoe", "switch head values and outputs"])
def test_bad_input(name: str) -> None:
    module, cfg, _ = CASES[name]
    x, p, dy = made(module, cfg)
    with pytest.raises(ShapeError, match="batch, sequence, 3"):
        module.forward(x[0], p, cfg)
    with pytest.raises(DtypeError, match="floating"):
        module.forward(np.ones((B, S, D), int), p, cfg)
    with pytest.raises(ShapeError, match="missing"):
        module.forward(x, {n: a for n, a in p.items() if n != "o_proj"}, cfg)
    with pytest.raises(NonFiniteError, match="nan|NaN"):
        module.forward(np.full((B, S, D), np.nan), p, cfg)
    _, cache = module.forward(x, p, cfg)
    with pytest.raises(ShapeError, match="dy"):
        module.backward(dy[0], cache)
    with pytest.raises(ShapeError, match="no such loss"):
        module.backward(dy, cache, {"entropy": 1.0})


def test_spread_is_a_weighted_sum_of_matrix_products() -> None:
    """Every way of reading the pairs against einsum, forward and both gradients."""
    from pymoe.moe import plan

    rng = np.random.default_rng(3)
    idx = np.array([[0, 3, 1, 3], [2, 2, 0, 1], [1, 0, 3, 3]])  # twice the same expert is a pair each
    kept = rng.random(idx.shape) < 0.8
    plan_, w, g = plan.make(idx, kept, 5), rng.standard_normal((5, 2, 6)), rng.standard_normal((3, 4))
    for n_in, n_out in itertools.product((3, 6, 12), repeat=2):
        a, dy = rng.standard_normal((n_in, 6)), rng.standard_normal((n_out, 2))
        one = np.where(kept, g, 0.0).reshape(-1)
        into, out = np.repeat(np.eye(n_in), 12 // n_in, axis=0), np.repeat(np.eye(n_out), 12 // n_out, axis=0)
        wide = w[idx.reshape(-1)]
        y, cache = spread.forward(a, g, w, plan_, n_out)
        da, dg, dw = spread.backward(dy, cache)
        assert relative(y, np.einsum("po,p,pba,pi,ia->ob", out, one, wide, into, a)) <= 16 * U64
        assert relative(da, np.einsum("po,p,pba,pi,ob->ia", out, one, wide, into, dy)) <= 16 * U64
        assert (
            relative(dg.reshape(-1), np.einsum("po,p,pba,pi,ia,ob->p", out, kept.reshape(-1), wide, into, a, dy))
            <= 16 * U64
        )
        each = np.einsum("po,p,pi,ia,ob->pba", out, one, into, a, dy)
        assert relative(dw, np.stack([each[idx.reshape(-1) == e].sum(0) for e in range(5)])) <= 16 * U64
        assert not dw[4].any() and not dg[~kept].any()
