"""Every layer: the whole Jacobian by complex step with planted faults, loops, float32, strict arrays, settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from pymoe import verify
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.nn import (
    KV,
    CrossAttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    LinearConfig,
    NormConfig,
    SelfAttentionConfig,
    cross_attention,
    embedding,
    feed_forward,
    linear,
    norm,
    self_attention,
)

U64, U32 = 2.0**-53, 2.0**-24
B, S, SK, D = 2, 4, 3, 6


def frozen(a):
    a = np.asarray(a)
    a.setflags(write=False)
    return a


def distance(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    gap = float(np.max(np.abs(a - b), initial=0.0))
    return gap / float(np.max(np.abs(b))) if gap else 0.0


MASK = frozen([[True, True, False, True], [False, False, True, True]])
POSITIONS = {"positions": frozen([[7, 8, 9, 30], [0, 0, 5, 1]])}
MEMORY_MASK = frozen([[True, False, True], [False, False, False]])  # the second row sees nothing


@dataclass(frozen=True)
class Case:
    name: str
    module: Any
    cfg: Any
    keywords: Any = None
    shape: tuple[int, ...] = (B, S, D)

    def args(self, dtype=np.float64, seed=0):
        """Every number exact in float32, no parameter at its start."""
        rng = np.random.default_rng(seed)

        def values(shape):
            return frozen(rng.standard_normal(shape).astype(np.float32).astype(dtype))

        p = tree.map(lambda a: values(a.shape), self.module.init(rng, self.cfg))
        if self.module is embedding:
            return frozen(rng.integers(0, self.cfg.vocab, self.shape)), p, self.cfg
        x = values(self.shape)
        if self.module is cross_attention:
            return x, p, self.cfg, values((B, SK, self.cfg.d_memory or D))
        return x, p, self.cfg

    @property
    def static(self):
        return self.keywords or {}


CASES = (
    Case("linear", linear, LinearConfig(6, 7)),
    Case("linear without bias", linear, LinearConfig(6, 7, bias=False)),
    Case("embedding", embedding, EmbeddingConfig(5, 6), shape=(3, 4)),
    Case("RMS norm", norm, NormConfig(6)),
    Case("layer norm", norm, NormConfig(6, "layer", 1e-3)),
    Case("GLU", feed_forward, FeedForwardConfig(6, 5)),
    Case("GLU with biases, GELU", feed_forward, FeedForwardConfig(6, 5, activation="gelu", bias=True)),
    Case("MLP", feed_forward, FeedForwardConfig(6, 5, gated=False, activation="relu_squared")),
    Case("MLP with biases", feed_forward, FeedForwardConfig(6, 5, gated=False, activation="gelu_tanh", bias=True)),
    Case("self-attention", self_attention, SelfAttentionConfig(6, 3)),
    Case("self-attention, both ways", self_attention, SelfAttentionConfig(6, 4, 2, 2, causal=False), {"mask": MASK}),
    Case("self-attention, causal, mask", self_attention, SelfAttentionConfig(6, 3, 1, bias=True), {"mask": MASK}),
    Case("self-attention, no positions, odd heads", self_attention, SelfAttentionConfig(6, 2, rope_base=None)),
    Case("self-attention, own positions", self_attention, SelfAttentionConfig(6, 3, rope_base=30.0), POSITIONS),
    Case("cross-attention", cross_attention, CrossAttentionConfig(6, 3)),
    Case("cross-attention, mask", cross_attention, CrossAttentionConfig(6, 4, 2, 5, 7, True), {"mask": MEMORY_MASK}),
)  # fmt: skip
every = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@every
def test_the_whole_jacobian_with_planted_faults(case):
    report = verify.gradcheck(case.module, *case.args(), **case.static, mode="jacobian", controls=True)
    assert report.error < 1e-13
    assert report.zeros == ()


@every
def test_float32_is_as_near_as_float32_can_be(case):
    low, c_low = case.module.forward(*case.args(np.float32), **case.static)
    high, c_high = case.module.forward(*case.args(), **case.static)
    assert low.dtype == np.float32
    assert distance(low, high) <= 64 * U32 < distance(1.001 * low, high)
    dy = np.random.default_rng(1).standard_normal(low.shape).astype(np.float32)
    first = [part for part in case.module.backward(frozen(dy), c_low) if part is not None]
    second = [part for part in case.module.backward(frozen(dy.astype(np.float64)), c_high) if part is not None]
    for a, b in zip(first, second, strict=True):
        for name, g in tree.flatten(a if isinstance(a, dict) else {"x": a}).items():
            reference = tree.flatten(b if isinstance(b, dict) else {"x": b})[name]
            assert g.dtype == np.float32
            assert distance(g, reference) <= 64 * U32 < distance(1.001 * g, reference), name


@every
def test_strict_arrays_give_the_same_numbers(case):
    def moved(thing):
        if isinstance(thing, dict):
            return {name: moved(value) for name, value in thing.items()}
        return strict.asarray(np.array(thing)) if isinstance(thing, np.ndarray) else thing

    y, cache = case.module.forward(*case.args(), **case.static)
    other, c_other = case.module.forward(*(moved(a) for a in case.args()), **moved(case.static))
    assert distance(to_numpy(other), y) <= 64 * U64
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dp, d_other = case.module.backward(dy, cache)[1], case.module.backward(strict.asarray(dy), c_other)[1]
    for name, g in dp.items():
        assert distance(to_numpy(d_other[name]), g) <= 64 * U64, name


@every
def test_the_gradient_has_the_keys_of_the_parameters(case):
    args = case.args()
    y, cache = case.module.forward(*args, **case.static)
    assert list(case.module.backward(y, cache)[1]) == list(args[1])


# --- forward, in loops over tokens and heads -------------------------------------------------------------------


def rotated(x, position, base):
    out = np.array(x)
    for i in range(len(x) // 2):
        angle = position * base ** (-2 * i / len(x))
        a, b = x[i], x[i + len(x) // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + len(x) // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attended(q, keys, values, visible):
    scores = [sum(q * k) / math.sqrt(len(q)) for k in keys]
    weights = [math.exp(s) if seen else 0.0 for s, seen in zip(scores, visible, strict=True)]
    total = sum(weights)
    return (
        sum((w / total * v for w, v in zip(weights, values, strict=True)), 0.0 * values[0])
        if total
        else 0.0 * values[0]
    )


def expected(case):
    x, p, cfg, *rest = case.args()
    mask, positions = case.static.get("mask"), case.static.get("positions")
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    out = np.empty(x.shape)
    for b in range(x.shape[0]):
        queries, keys, values = [], [], []
        if case.module is self_attention:
            for s in range(x.shape[1]):
                row = p["qkv_proj"] @ x[b, s] + p.get("qkv_proj_bias", 0.0)
                parts = row.reshape(h + 2 * g, d)
                where = s if positions is None else positions[b, s]
                if cfg.rope_base is not None:
                    parts = np.array(
                        [rotated(v, where, cfg.rope_base) if i < h + g else v for i, v in enumerate(parts)]
                    )
                queries.append(parts[:h])
                keys.append(parts[h : h + g])
                values.append(parts[h + g :])
        else:
            queries = [(p["q_proj"] @ v + p.get("q_proj_bias", 0.0)).reshape(h, d) for v in x[b]]
            for m in rest[0][b]:
                parts = (p["kv_proj"] @ m + p.get("kv_proj_bias", 0.0)).reshape(2 * g, d)
                keys.append(parts[:g])
                values.append(parts[g:])
        for s, q in enumerate(queries):
            seen = [
                (mask is None or mask[b, j]) and (j <= s or case.module is cross_attention or not cfg.causal)
                for j in range(len(keys))
            ]
            o = [attended(q[i], [k[i * g // h] for k in keys], [v[i * g // h] for v in values], seen) for i in range(h)]
            out[b, s] = p["o_proj"] @ np.concatenate(o) + p.get("o_proj_bias", 0.0)
    return out


@pytest.mark.parametrize("case", [c for c in CASES if "attention" in c.name], ids=lambda c: c.name)
def test_attention_is_what_the_paper_says(case):
    y, _ = case.module.forward(*case.args(), **case.static)
    assert distance(y, expected(case)) <= 64 * U64 < distance(1.001 * y, expected(case))


ACTIVATION = {
    "silu": lambda v: v / (1 + math.exp(-v)),
    "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
    "gelu_tanh": lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "relu_squared": lambda v: max(v, 0.0) ** 2,
}


@pytest.mark.parametrize("case", [c for c in CASES if c.module is feed_forward], ids=lambda c: c.name)
def test_feed_forward_is_what_the_paper_says(case):
    x, p, cfg = case.args()
    y, _ = feed_forward.forward(x, p, cfg)
    reference = np.empty_like(y)
    act = ACTIVATION[cfg.activation]
    for at in np.ndindex(B, S):
        z = p[cfg.up_name] @ x[at] + p.get(f"{cfg.up_name}_bias", 0.0)
        h = [act(z[i]) * z[i + cfg.d_ff] if cfg.gated else act(z[i]) for i in range(cfg.d_ff)]
        reference[at] = p["down_proj"] @ np.array(h) + p.get("down_proj_bias", 0.0)
    assert distance(y, reference) <= 64 * U64 < distance(1.001 * y, reference)


# --- keys and values kept -------------------------------------------------------------------------------------


def test_the_past_is_a_constant_and_the_rest_is_the_whole():
    case = Case("", self_attention, SelfAttentionConfig(6, 4, 2, 2, bias=True))
    x, p, cfg = case.args()
    whole, c_whole = self_attention.forward(x, p, cfg)
    _, c_first = self_attention.forward(x[:, :1], p, cfg)
    rest, c_rest = self_attention.forward(x[:, 1:], p, cfg, past=c_first.kv)
    assert distance(rest, whole[:, 1:]) <= 16 * U64
    assert distance(c_rest.kv.k, c_whole.kv.k) <= 16 * U64 and distance(c_rest.kv.v, c_whole.kv.v) <= 16 * U64
    assert c_first.kv.k.shape == (B, 2, 1, 2)  # extended by making a new one

    class Continued:
        """The second piece alone; its past does not depend on its x and parameters."""

        backward = staticmethod(self_attention.backward)

        @staticmethod
        def forward(x, p):
            past = KV(*(a.astype(x.real.dtype) for a in c_first.kv))
            return self_attention.forward(x, p, cfg, past=past)

    report = verify.gradcheck(Continued, frozen(x[:, 1:]), p, mode="jacobian", controls=True)
    assert report.error < 1e-13


def test_keys_and_values_of_a_memory_can_be_computed_once():
    case = CASES[-1]
    x, p, cfg, memory = case.args()
    kv, _ = cross_attention.keys_values(memory, p, cfg)
    assert isinstance(kv, KV) and kv.k.shape == (B, 2, SK, 5)
    again, _ = cross_attention.forward(x, p, cfg, kv=kv, mask=MEMORY_MASK)
    assert np.array_equal(again, cross_attention.forward(x, p, cfg, memory, mask=MEMORY_MASK)[0])
    for wrong in ({}, {"memory": memory, "kv": kv}):
        with pytest.raises(ShapeError, match="either the memory or its keys and values"):
            cross_attention.forward(x, p, cfg, **wrong)


# --- start and settings ----------------------------------------------------------------------------------------


@every
def test_the_start_is_the_documented_one(case):
    p = case.module.init(np.random.default_rng(3), case.cfg, np.float64)
    for name, a in p.items():
        if "bias" in name or case.module is norm:
            assert np.array_equal(a, np.full(a.shape, float(case.module is norm and name == "weight"))), name
        else:
            assert 0.5 * 0.02 < a.std() < 1.5 * 0.02, name
    again = case.module.init(np.random.default_rng(3), case.cfg)
    assert all(a.dtype == np.float32 and np.array_equal(a, p[name].astype(np.float32)) for name, a in again.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearConfig(0, 2), "LinearConfig.d_in must be an integer of at least 1, got 0"),
        (lambda: LinearConfig(2, True), "LinearConfig.d_out"),
        (lambda: LinearConfig(2, 2, std=-1.0), "std must be a finite number of at least 0, got -1.0"),
        (lambda: EmbeddingConfig(2.0, 2), "EmbeddingConfig.vocab"),
        (lambda: NormConfig(2, "batch"), "NormConfig.kind must be one of rms, layer; got 'batch'"),
        (lambda: NormConfig(2, eps=float("inf")), "eps must be"),
        (lambda: FeedForwardConfig(2, 0), "d_ff must be"),
        (lambda: FeedForwardConfig(2, 2, activation="swish"), "activation must be one of"),
        (lambda: SelfAttentionConfig(6, 4), "n_heads must divide d_model, got 4 and 6; or give head_dim"),
        (lambda: SelfAttentionConfig(6, 3, 2), "n_heads must be a multiple of n_kv_heads, got 3 and 2"),
        (lambda: SelfAttentionConfig(6, 2), "rotary positions need an even head width, got 3"),
        (lambda: SelfAttentionConfig(6, 3, rope_base=1.0), "rope_base must be above 1"),
        (lambda: CrossAttentionConfig(6, 3, d_memory=0), "d_memory must be"),
    ],
)
def test_settings_without_meaning_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_wrong_ranks_are_refused():
    for module, cfg in ((self_attention, SelfAttentionConfig(6, 3)), (cross_attention, CrossAttentionConfig(6, 3))):
        p = module.init(np.random.default_rng(0), cfg)
        with pytest.raises(ShapeError, match=r"takes x of shape \(batch, sequence, 6\), got \(4, 6\)"):
            module.forward(np.ones((4, 6)), p, cfg)
    with pytest.raises(ShapeError, match=r"memory of shape \(batch, sequence, width\), got \(4, 6\)"):
        cross_attention.keys_values(np.ones((4, 6)), p, cfg)


def test_an_expert_is_a_tree_of_the_dense_layer():
    from pymoe import moe, presets

    cfg = presets.mixtral(d_model=6, d_ff=5, n_experts=1, k=1, bias=True)
    p = moe.init(np.random.default_rng(0), cfg)
    x = np.random.default_rng(1).standard_normal((7, 6))
    one = {name: a[0] for name, a in p["experts"].items()}
    assert one.keys() == feed_forward.init(np.random.default_rng(0), FeedForwardConfig(6, 5, bias=True)).keys()
    y, _ = feed_forward.forward(x, one, FeedForwardConfig(6, 5, bias=True))
    assert distance(moe.forward(x, p, cfg)[0].y, y) <= 4 * U64
