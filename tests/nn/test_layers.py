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
    LatentAttentionConfig,
    LinearConfig,
    NormConfig,
    SelfAttentionConfig,
    cross_attention,
    embedding,
    feed_forward,
    latent_attention,
    linear,
    norm,
    self_attention,
)
from pymoe.nn.relative_positions import RelativePositions
from pymoe.nn.rotary import Llama3, Yarn
from pymoe.nn.self_attention import Temperature

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


YARN = Yarn(4.0, 16, 6.0)
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
    Case("self-attention, stretched, head norm", self_attention,
         SelfAttentionConfig(6, 3, 1, 4, rope_base=30.0, qk_norm="head", norm_eps=1e-3, rope_stretch=YARN)),
    Case("self-attention, width norm, window, biases inside", self_attention,
         SelfAttentionConfig(6, 4, 2, 2, bias=True, out_bias=False, qk_norm="width", window=2)),
    Case("self-attention, sinks, chunks, scale, mask", self_attention,
         SelfAttentionConfig(6, 3, chunk=3, sinks=True, scale=0.4), {"mask": MASK}),
    Case("self-attention, unit norm, temperature", self_attention,
         SelfAttentionConfig(6, 3, qk_norm="unit", temperature=Temperature(0.7, 8)), POSITIONS),
    Case("self-attention, distances", self_attention,
         SelfAttentionConfig(6, 2, rope_base=None, scale=1.0, relative=RelativePositions(6, 8))),
    Case("self-attention, distances both ways", self_attention,
         SelfAttentionConfig(6, 2, causal=False, rope_base=None, relative=RelativePositions(4, 5)), {"mask": MASK}),
    Case("latent attention", latent_attention, LatentAttentionConfig(6, 3, 5, 1, 4, 2)),
    Case("latent attention, bottleneck, biases, mask", latent_attention,
         LatentAttentionConfig(6, 2, 4, 3, 2, 5, 7, bias=True, rope_base=50.0, scale=0.3), {"mask": MASK}),
    Case("latent attention, stretched", latent_attention,
         LatentAttentionConfig(6, 2, 4, 3, 4, 1, rope_stretch=Llama3(4.0, 16, 1.0, 3.0), norm_eps=1e-2), POSITIONS),
    Case("cross-attention, own scale", cross_attention, CrossAttentionConfig(6, 3, scale=1.0)),
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


def turns(i, d, base, stretch):
    """The angle that one position adds to channel pair i, from the papers' formulas, and the amplitude."""
    theta = base ** (-2 * i / d)
    if stretch is None:
        return theta, 1.0
    often = stretch.original * theta / (2 * math.pi)  # turns within the trained context
    if isinstance(stretch, Llama3):
        if often > stretch.high:
            return theta, 1.0
        kept = max(0.0, (often - stretch.low) / (stretch.high - stretch.low))
        return kept * theta + (1 - kept) * theta / stretch.factor, 1.0
    ends = [
        math.log(stretch.original / (2 * math.pi * n), base) * d / 2 for n in (stretch.beta_fast, stretch.beta_slow)
    ]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), d - 1)
    new = min(1.0, max(0.0, (i - low) / (high - low)))
    return new * theta / stretch.factor + (1 - new) * theta, 0.1 * math.log(stretch.factor) + 1


def rotated(x, position, base, stretch=None):
    out = np.array(x)
    for i in range(len(x) // 2):
        theta, amplitude = turns(i, len(x), base, stretch)
        angle = position * theta
        a, b = x[i], x[i + len(x) // 2]
        out[i] = amplitude * (a * math.cos(angle) - b * math.sin(angle))
        out[i + len(x) // 2] = amplitude * (a * math.sin(angle) + b * math.cos(angle))
    return out


def attended(q, keys, values, visible, scale, biases=None, sink=None):
    biases = [0.0] * len(keys) if biases is None else biases
    scores = [sum(q * k) * scale + bias for k, bias in zip(keys, biases, strict=True)]
    weights = [math.exp(s) if seen else 0.0 for s, seen in zip(scores, visible, strict=True)]
    total = sum(weights) + (0.0 if sink is None else math.exp(sink))
    nothing = 0.0 * values[0]
    return sum((w / total * v for w, v in zip(weights, values, strict=True)), nothing) if total else nothing


def unit(v, eps, weight=1.0):
    return v / math.sqrt(sum(a * a for a in v) / len(v) + eps) * weight


def bucket(distance, cfg, causal):
    """T5's bucket of key minus query, with the logarithm as it is written."""
    n, offset = (cfg.buckets, 0) if causal else (cfg.buckets // 2, cfg.buckets // 2 if distance > 0 else 0)
    r = max(-distance, 0) if causal else abs(distance)
    exact = n // 2
    if r < exact:
        return offset + r
    wide = exact + int(math.log(r / exact) / math.log(cfg.max_distance / exact) * (n - exact) + 1e-12)
    return offset + min(wide, n - 1)


def qkv_of(row, p, cfg, where):
    """q (H, d), k (G, d), v (G, d) of one token."""
    h, g, d = cfg.n_heads, cfg.kv_heads, cfg.d_head
    parts = np.split(p["qkv_proj"] @ row + p.get("qkv_proj_bias", 0.0), [h * d, (h + g) * d])
    if cfg.qk_norm == "width":
        parts = [unit(a, cfg.norm_eps, p[n]) for a, n in zip(parts[:2], ("q_norm", "k_norm"), strict=True)] + parts[2:]
    q, k, v = (a.reshape(-1, d) for a in parts)
    if cfg.qk_norm in ("head", "unit"):
        q = [unit(a, cfg.norm_eps, p.get("q_norm", 1.0)) for a in q]
        k = [unit(a, cfg.norm_eps, p.get("k_norm", 1.0)) for a in k]
    if cfg.rope_base is not None:
        q, k = ([rotated(a, where, cfg.rope_base, cfg.rope_stretch) for a in each] for each in (q, k))
    if cfg.temperature is not None:
        t = cfg.temperature
        q = [a * (1 + t.scale * math.log(1 + math.floor((where + 1) / t.every))) for a in q]
    return q, k, v


def latent_of(row, p, cfg, where):
    """The same of latent attention, every head with a key of its own."""
    h, n, r, v, rank = cfg.n_heads, cfg.nope_dim, cfg.rope_dim, cfg.v_dim, cfg.kv_rank
    if cfg.q_rank is None:
        q = p["q_proj"] @ row
    else:
        q = p["q_b_proj"] @ unit(p["q_a_proj"] @ row + p.get("q_a_proj_bias", 0.0), cfg.norm_eps, p["q_a_norm"])
    low = p["kv_a_proj"] @ row + p.get("kv_a_proj_bias", 0.0)
    up = (p["kv_b_proj"] @ unit(low[:rank], cfg.norm_eps, p["kv_a_norm"])).reshape(h, n + v)
    turn = [rotated(a, where, cfg.rope_base, cfg.rope_stretch) for a in [*q.reshape(h, n + r)[:, n:], low[rank:]]]
    queries = [np.concatenate([a[:n], t]) for a, t in zip(q.reshape(h, n + r), turn[:h], strict=True)]
    return queries, [np.concatenate([a[:n], turn[h]]) for a in up], up[:, n:]


def visible(i, j, cfg):
    if not cfg.causal:
        return True
    window, chunk = getattr(cfg, "window", None), getattr(cfg, "chunk", None)
    return j <= i and (window is None or i - j < window) and (chunk is None or i // chunk == j // chunk)


def expected(case):
    x, p, cfg, *rest = case.args()
    mask, positions = case.static.get("mask"), case.static.get("positions")
    crossing, h = case.module is cross_attention, cfg.n_heads
    out = np.empty(x.shape)
    for b in range(x.shape[0]):
        queries, keys, values = [], [], []
        if crossing:
            g, d = cfg.kv_heads, cfg.d_head
            queries = [(p["q_proj"] @ v + p.get("q_proj_bias", 0.0)).reshape(h, d) for v in x[b]]
            for m in rest[0][b]:
                parts = (p["kv_proj"] @ m + p.get("kv_proj_bias", 0.0)).reshape(2 * g, d)
                keys.append(parts[:g])
                values.append(parts[g:])
        else:
            for s in range(x.shape[1]):
                one = qkv_of if case.module is self_attention else latent_of
                parts = one(x[b, s], p, cfg, s if positions is None else positions[b, s])
                for where, part in zip((queries, keys, values), parts, strict=True):
                    where.append(part)
        for s, q in enumerate(queries):
            seen = [(mask is None or mask[b, j]) and (crossing or visible(s, j, cfg)) for j in range(len(keys))]
            o = []
            for i in range(h):
                at = i * len(keys[0]) // h
                scale = 1 / math.sqrt(len(q[i])) if cfg.scale is None else cfg.scale
                biases = sink = None
                if getattr(cfg, "relative", None) is not None:
                    biases = [p["relative_bias"][bucket(j - s, cfg.relative, cfg.causal), i] for j in range(len(keys))]
                if "sinks" in p:
                    sink = p["sinks"][i]
                o.append(attended(q[i], [k[at] for k in keys], [v[at] for v in values], seen, scale, biases, sink))
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


PAST = {
    "grouped": (self_attention, SelfAttentionConfig(6, 4, 2, 2, bias=True), 2, 2),
    "window": (self_attention, SelfAttentionConfig(6, 3, window=2, sinks=True, qk_norm="head"), 3, 2),
    "chunk": (self_attention, SelfAttentionConfig(6, 3, chunk=2, temperature=Temperature(0.5, 2)), 3, 2),
    "distances": (self_attention, SelfAttentionConfig(6, 3, relative=RelativePositions(4, 5)), 3, 2),
    "latent": (latent_attention, LatentAttentionConfig(6, 3, 5, 1, 4, 2), 3, 5),
}


@pytest.mark.parametrize("name", PAST)
def test_the_past_is_a_constant_and_the_rest_is_the_whole(name):
    module, cfg, heads, width = PAST[name]
    x, p, cfg = Case("", module, cfg).args()
    whole, c_whole = module.forward(x, p, cfg)
    _, c_first = module.forward(x[:, :1], p, cfg)
    rest, c_rest = module.forward(x[:, 1:], p, cfg, past=c_first.kv)
    assert distance(rest, whole[:, 1:]) <= 16 * U64
    assert distance(c_rest.kv.k, c_whole.kv.k) <= 16 * U64 and distance(c_rest.kv.v, c_whole.kv.v) <= 16 * U64
    assert c_first.kv.k.shape == (B, heads, 1, width)  # extended by making a new one

    class Continued:
        """The second piece alone; its past does not depend on its x and parameters."""

        backward = staticmethod(module.backward)

        @staticmethod
        def forward(x, p):
            past = KV(*(a.astype(x.real.dtype) for a in c_first.kv))
            return module.forward(x, p, cfg, past=past)

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
        if "bias" in name or "norm" in name or name == "sinks" or case.module is norm:
            one = "norm" in name or (case.module is norm and name == "weight")
            assert np.array_equal(a, np.full(a.shape, float(one))), name
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
        (lambda: SelfAttentionConfig(6, 3, qk_norm="l3"), "qk_norm must be one of"),
        (lambda: SelfAttentionConfig(6, 3, window=0), "window must be an integer of at least 1"),
        (lambda: SelfAttentionConfig(6, 3, window=2, chunk=2), "a window or a chunk, not both"),
        (lambda: SelfAttentionConfig(6, 3, window=2, causal=False), "only where causal"),
        (lambda: SelfAttentionConfig(6, 3, qk_norm="unit", rope_stretch=Yarn(4.0, 8)), "of amplitude 1"),
        (lambda: LatentAttentionConfig(6, 3, 5, 1, 3, 2), "need an even head width, got 3"),
        (lambda: LatentAttentionConfig(6, 3, 5, 0, 4, 2), "nope_dim must be an integer"),
        (lambda: LatentAttentionConfig(6, 3, 5, 1, 4, 2, q_rank=0), "q_rank must be an integer"),
        (lambda: Yarn(0.0, 8), "Yarn.factor must be a finite number above 0"),
        (lambda: Llama3(4.0, 8, 4.0, 4.0), "high must be above low"),
        (lambda: RelativePositions(7, 100), "an even number of at least 4 buckets"),
        (lambda: RelativePositions(8, 4), "max_distance above half of it"),
        (lambda: Temperature(0.1, 0), "every must be an integer"),
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
