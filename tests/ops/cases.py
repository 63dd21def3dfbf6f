"""The table of cases.  To add an op, add a row: arguments, settings, the loop of ``loops.py``, the op in torch.

Sizes within a case are pairwise different; inputs stay away from kinks; torch is a function of (torch, *tensors) or
None where torch defines another result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from pymoe import ops

from . import loops

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    op: ModuleType
    arguments: Callable[[Rng], tuple[Any, ...]]
    oracle: Callable[..., np.ndarray]
    torch: Callable[..., Any] | None
    static: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        op = self.op.__name__.rsplit(".", 1)[1]
        return f"{op}-{self.label}" if self.label else op

    def args(self, dtype: Any = np.float64, seed: int = 0) -> tuple[Any, ...]:
        """Seeded, read-only arguments; floats rounded to float32 first, so that both precisions see equal numbers."""
        made = self.arguments(np.random.default_rng(seed))
        return tuple(_given(a, dtype) for a in made)


def _given(a: Any, dtype: Any) -> Any:
    if a is None:
        return None
    a = a.astype(np.float32).astype(dtype) if a.dtype.kind == "f" else a.copy()
    a.setflags(write=False)
    return a


def normal(*shapes: tuple[int, ...]) -> Callable[[Rng], tuple[np.ndarray, ...]]:
    return lambda rng: tuple(rng.standard_normal(s) for s in shapes)


def kinkless(*shape: int) -> Callable[[Rng], tuple[np.ndarray]]:
    """Normal numbers moved 0.1 away from 0."""

    def make(rng: Rng) -> tuple[np.ndarray]:
        x = rng.standard_normal(shape)
        return (x + 0.1 * np.sign(x),)

    return make


def qkv(
    h: int, g: int, sq: int, sk: int, d: int = 7, dv: int = 7, masked: bool = False
) -> Callable[[Rng], tuple[Any, ...]]:
    def make(rng: Rng) -> tuple[Any, ...]:
        q, k, v = (rng.standard_normal((2, *s)) for s in ((h, sq, d), (g, sk, d), (g, sk, dv)))
        if not masked:
            return q, k, v
        mask = rng.random((2, sk)) < 0.6
        mask[:, 0] = True  # the first key is real: no query of these cases sees nothing
        return q, k, v, mask

    return make


def torch_attention(**static: Any) -> Callable[..., Any]:
    """The textbook form with repeated heads, and our causal offset (torch counts from the first key)."""

    def run(t: Any, q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, sinks: Any = None) -> Any:
        (_, h, sq, d), (_, g, sk, _) = q.shape, k.shape
        k, v = (a.repeat_interleave(h // g, dim=1) for a in (k, v))
        allowed = t.ones(sq, sk, dtype=t.bool)
        if static.get("causal"):
            allowed = allowed.tril(diagonal=sk - sq)
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        if "first" in static:
            allowed = allowed & (t.arange(sk) >= t.from_numpy(np.array(static["first"]))[:, None])
        if bias is not None or sinks is not None:
            s = q @ k.transpose(2, 3) * static.get("scale", 1 / math.sqrt(d))
            s = (s if bias is None else s + bias).masked_fill(~allowed, -math.inf)
            if sinks is not None:
                s = t.cat([s, sinks[None, :, None, None].expand(*s.shape[:3], 1)], dim=3)
            return t.softmax(s, dim=3)[..., :sk] @ v
        return t.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, scale=static.get("scale", 1 / math.sqrt(d))
        )

    return run


def biased(*sizes: int, masked: bool = False, bias: bool = False, sinks: bool = False, **more: int) -> Any:
    """``qkv`` with a bias (H, Sq, Sk), sinks (H,), or both."""

    def make(rng: Rng) -> tuple[Any, ...]:
        given = (*qkv(*sizes, masked=masked, **more)(rng), None)[:4]
        h, _, sq, sk = sizes
        given = (*given, rng.standard_normal((h, sq, sk)) if bias else None)
        return (*given, rng.standard_normal(h) + 0.5) if sinks else given

    return make


def torch_rope(
    t: Any, x: Any, positions: Any, base: float = 10000.0, frequencies: Any = None, amplitude: float = 1.0
) -> Any:
    """As a complex product."""
    d = x.shape[-1]
    theta = (
        base ** (-t.arange(0, d, 2, dtype=t.float64) / d)
        if frequencies is None
        else t.tensor(frequencies, dtype=t.float64)
    )
    angle = positions[..., None].to(t.float64) * theta
    angle = angle[:, None] if angle.ndim == 3 else angle
    z = t.complex(x[..., : d // 2], x[..., d // 2 :]) * t.polar(amplitude * t.ones_like(angle), angle)
    return t.cat([z.real, z.imag], dim=-1)


def torch_mean_pool(t: Any, x: Any, mask: Any) -> Any:
    weight = mask.to(x.dtype)
    return t.einsum("bsd,bs->bd", x, weight) / weight.sum(1, keepdim=True).clamp(min=1)


def targets(shape: tuple[int, ...], v: int, ignored: int | None = None) -> Callable[[Rng], tuple[Any, ...]]:
    def make(rng: Rng) -> tuple[Any, ...]:
        t = rng.integers(0, v, shape)
        if ignored is not None:
            t.flat[::3] = ignored
        return 2 * rng.standard_normal((*shape, v)), t

    return make


def voices(logits: tuple[int, ...], weight: tuple[int, ...], ignored: bool = False) -> Callable[[Rng], tuple[Any, ...]]:
    """Logits of several models, their weights in [0.1, 1.1], targets."""

    def make(rng: Rng) -> tuple[Any, ...]:
        t = rng.integers(0, logits[-1], logits[1:-1])
        if ignored:
            t.flat[::3] = -100
        return 2 * rng.standard_normal(logits), rng.random(weight) + 0.1, t

    return make


def torch_mixture(t: Any, x: Any, w: Any) -> Any:
    return (w.reshape(*w.shape, *([1] * (x.ndim - w.ndim))) * x).sum(0)


def torch_mixture_nll(t: Any, z: Any, w: Any, y: Any) -> Any:
    said = t.softmax(z, -1).gather(-1, y.clamp(min=0)[None, ..., None].expand(*z.shape[:-1], 1))[..., 0]
    mixed = (w.reshape(*w.shape, *([1] * (said.ndim - w.ndim))) * said).sum(0)
    return -t.log(mixed[y != -100]).mean()


def glu(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda t, x: f(t, x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :]


def variant(
    t: Any,
    x: Any,
    act: str = "silu",
    limit: Any = None,
    clamp: str = "before",
    alpha: float = 1.0,
    offset: float = 0.0,
    softcap: Any = None,
) -> Any:
    """The gated activations as the published modelling code writes them."""
    g, u = x.chunk(2, dim=-1)
    if softcap is not None:
        c, top = softcap
        return t.tanh(g / c) * c * t.sigmoid(alpha * g) * (t.tanh(u / top) * top + offset)
    if limit is not None:
        u = u.clamp(min=-limit, max=limit)
        g = g.clamp(max=limit) if clamp == "before" else g
    gate = g * t.sigmoid(g * alpha) if act == "silu" else getattr(t.nn.functional, act)(g)
    return (gate.clamp(max=limit) if limit is not None and clamp == "after" else gate) * (u + offset)


def _gated(label: str, **static: Any) -> Case:
    torch = functools.partial(variant, **static)
    return Case(
        ops.gated, lambda r: (2 * r.standard_normal((2, 3, 10)),), loops.by_row(loops.variant), torch, static, label
    )


def _gelu_tanh(t: Any, x: Any) -> Any:
    return t.nn.functional.gelu(x, approximate="tanh")


def _attention(label: str, arguments: Callable[[Rng], tuple[Any, ...]], **static: Any) -> Case:
    return Case(ops.attention, arguments, loops.attention, torch_attention(**static), static, label)


def _cross_entropy(label: str, arguments: Callable[[Rng], tuple[Any, ...]], **static: Any) -> Case:
    def in_torch(t: Any, z: Any, y: Any) -> Any:
        return t.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1), **static)

    return Case(ops.cross_entropy, arguments, loops.cross_entropy, in_torch, static, label)


def _frozen(values: Any, dtype: Any = np.int64) -> np.ndarray:
    a = np.array(values, dtype)
    a.setflags(write=False)
    return a


CSR = {"indices": _frozen([1, 4, 0, 1, 3, 4, 2]), "indptr": _frozen([0, 2, 2, 6, 7])}  # (4, 6); nobody stores column 5
BSR = {"indices": _frozen([1, 0, 2]), "indptr": _frozen([0, 1, 3, 3])}  # blocks of (2, 3): (6, 9), an empty block row
NM = {"position": _frozen([[0, 3, 1, 2], [1, 2, 0, 1], [2, 3, 0, 3]], np.uint8), "m": 4}  # 2:4, (3, 8)
MASK = _frozen([[True, False, True, True, False], [False, True, True, False, True], [True] * 5], bool)


def torch_csr(t: Any, x: Any, data: Any) -> Any:
    row = np.repeat(np.arange(4), np.diff(CSR["indptr"]))
    at = t.from_numpy(row.copy()), t.from_numpy(CSR["indices"].copy())
    return x @ t.zeros(4, x.shape[-1], dtype=x.dtype).index_put(at, data).T


def torch_bsr(t: Any, x: Any, data: Any) -> Any:
    block_row = np.repeat(np.arange(3), np.diff(BSR["indptr"]))
    row = t.from_numpy(2 * block_row)[:, None, None] + t.arange(2)[None, :, None]
    column = t.from_numpy(3 * BSR["indices"])[:, None, None] + t.arange(3)[None, None, :]
    return x @ t.zeros(6, 9, dtype=x.dtype).index_put((row, column), data).T


def torch_nm(t: Any, x: Any, data: Any) -> Any:
    column = np.repeat(np.arange(2), 2) * 4 + NM["position"].astype(np.int64)
    return x @ t.zeros(3, 8, dtype=x.dtype).scatter(1, t.from_numpy(column), data).T


CASES = [
    # fmt: off
    Case(
        ops.linear,
        normal((2, 3, 5), (4, 5), (4,)),
        loops.by_row(loops.linear),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
    ),
    Case(
        ops.linear,
        normal((3, 5), (4, 5)),
        loops.by_row(loops.linear),
        lambda t, x, w: t.nn.functional.linear(x, w),
        label="no_bias",
    ),
    Case(
        ops.linear,
        normal((5,), (4, 5), (4,)),
        loops.by_row(loops.linear),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        label="one_vector",
    ),
    Case(
        ops.linear,
        normal((67, 3), (2, 3), (2,)),
        loops.by_row(loops.linear),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
        label="more_rows_than_a_block",
    ),
    Case(ops.csr_linear, normal((2, 3, 6), (7,)), loops.by_row(loops.csr_linear), torch_csr, CSR),
    Case(ops.csr_linear, normal((6,), (7,)), loops.by_row(loops.csr_linear), torch_csr, CSR, "one_vector"),
    Case(ops.bsr_linear, normal((2, 4, 9), (3, 2, 3)), loops.by_row(loops.bsr_linear), torch_bsr, BSR),
    Case(ops.bsr_linear, normal((9,), (3, 2, 3)), loops.by_row(loops.bsr_linear), torch_bsr, BSR, "one_vector"),
    Case(ops.nm_linear, normal((2, 5, 8), (3, 4)), loops.by_row(loops.nm_linear), torch_nm, NM),
    Case(ops.nm_linear, normal((8,), (3, 4)), loops.by_row(loops.nm_linear), torch_nm, NM, "one_vector"),
    Case(
        ops.masked,
        normal((3, 5)),
        loops.masked,
        lambda t, w: w * t.from_numpy(MASK.copy()),
        {"mask": MASK},
    ),
    Case(ops.softmax, normal((2, 3, 5)), loops.by_row(loops.softmax), lambda t, x: t.softmax(x, -1)),
    Case(ops.softmax, normal((7,)), loops.by_row(loops.softmax), lambda t, x: t.softmax(x, -1), label="one_row"),
    Case(ops.log_softmax, normal((2, 3, 5)), loops.by_row(loops.log_softmax), lambda t, x: t.log_softmax(x, -1)),
    Case(ops.logsumexp, normal((2, 3, 5)), loops.by_row(loops.logsumexp), lambda t, x: t.logsumexp(x, -1)),
    Case(ops.sigmoid, normal((3, 7)), loops.by_element(loops.sigmoid), lambda t, x: t.sigmoid(x)),
    Case(ops.tanh, normal((3, 7)), loops.by_element(math.tanh), lambda t, x: t.tanh(x)),
    Case(ops.relu, kinkless(3, 7), loops.by_element(loops.relu), lambda t, x: t.relu(x)),
    Case(ops.relu_squared, kinkless(2, 3, 7), loops.by_element(loops.relu_squared), lambda t, x: t.relu(x) ** 2),
    Case(ops.gelu, normal((2, 3, 7)), loops.by_element(loops.gelu), lambda t, x: t.nn.functional.gelu(x)),
    Case(ops.gelu_tanh, normal((3, 7)), loops.by_element(loops.gelu_tanh), _gelu_tanh),
    Case(ops.silu, normal((2, 3, 7)), loops.by_element(loops.silu), lambda t, x: t.nn.functional.silu(x)),
    Case(ops.softplus, normal((3, 7)), loops.by_element(loops.softplus), lambda t, x: t.nn.functional.softplus(x)),
    Case(
        ops.sqrt_softplus,
        normal((3, 7)),
        loops.by_element(lambda x: math.sqrt(loops.softplus(x))),
        lambda t, x: t.nn.functional.softplus(x).sqrt(),
    ),
    Case(ops.identity, normal((3, 7)), loops.by_element(lambda x: x), lambda t, x: x * 1),
    Case(ops.swiglu, normal((2, 3, 10)), loops.gated(loops.silu), glu(lambda t, g: t.nn.functional.silu(g))),
    Case(ops.geglu, normal((2, 3, 10)), loops.gated(loops.gelu), glu(lambda t, g: t.nn.functional.gelu(g))),
    Case(ops.geglu_tanh, normal((2, 3, 10)), loops.gated(loops.gelu_tanh), glu(_gelu_tanh)),
    Case(ops.reglu, kinkless(2, 3, 10), loops.gated(loops.relu), glu(lambda t, g: t.relu(g))),
    _gated(""),
    _gated("before", limit=0.7),
    _gated("after", limit=0.6, clamp="after"),
    _gated("gpt-oss", limit=1.1, alpha=1.702, offset=1.0),
    _gated("soft-capped", softcap=(1.5, 0.75), alpha=0.8, offset=-0.5),
    _gated("gelu-before", act="gelu", limit=0.4, offset=0.25),
    _gated("relu-after", act="relu", limit=0.9, clamp="after"),
    Case(
        ops.layer_norm,
        normal((2, 3, 5), (5,), (5,)),
        loops.by_row(loops.layer_norm),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (5,), w, b),
    ),
    Case(
        ops.layer_norm,
        normal((3, 7), (7,), (7,)),
        loops.by_row(loops.layer_norm),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (7,), w, b, 0.3),
        {"eps": 0.3},
        "eps",
    ),
    Case(
        ops.rms_norm,
        normal((2, 3, 5), (5,)),
        loops.by_row(loops.rms_norm),
        lambda t, x, w: t.nn.functional.rms_norm(x, (5,), w, 1e-6),
    ),
    Case(
        ops.rms_norm,
        normal((3, 7), (7,)),
        loops.by_row(loops.rms_norm),
        lambda t, x, w: t.nn.functional.rms_norm(x, (7,), w, 0.3),
        {"eps": 0.3},
        "eps",
    ),
    Case(
        ops.scaled_rms_norm,
        normal((2, 3, 5), (5,)),
        loops.by_row(loops.scaled_rms_norm),
        lambda t, x, w: t.nn.functional.rms_norm(x * w, (5,), None, 0.3),
        {"eps": 0.3},
    ),
    Case(
        ops.embedding,
        lambda r: (r.integers(0, 4, (2, 6)), r.standard_normal((5, 3))),
        loops.embedding,
        lambda t, i, w: t.nn.functional.embedding(i, w),
    ),  # id 4 does not occur, others occur several times
    Case(ops.rope, lambda r: (r.standard_normal((2, 3, 5, 8)), r.integers(0, 99, 5)), loops.rope, torch_rope),
    Case(
        ops.rope,
        lambda r: (r.standard_normal((3, 2, 5, 4)), r.integers(0, 9, (3, 5))),
        loops.rope,
        lambda t, x, p: torch_rope(t, x, p, 50.0),
        {"base": 50.0},
        "positions_by_row",
    ),
    Case(
        ops.rope,
        lambda r: (r.standard_normal((2, 3, 5, 6)), r.integers(0, 9, 5)),
        loops.rope,
        lambda t, x, p: torch_rope(t, x, p, frequencies=[0.7, 0.01, 2.0], amplitude=1.2),
        {"frequencies": (0.7, 0.01, 2.0), "amplitude": 1.2},
        "stretched",
    ),
    _attention("plain", qkv(3, 3, 4, 5)),
    _attention("grouped", qkv(6, 3, 4, 5)),
    _attention("multi_query", qkv(3, 1, 4, 5, dv=6)),
    _attention("causal", qkv(4, 2, 5, 5, d=3, dv=3), causal=True),
    _attention("causal_after_cache", qkv(6, 3, 4, 5), causal=True),
    _attention("one_new_query", qkv(6, 3, 1, 5), causal=True),
    _attention("padding", qkv(6, 3, 4, 5, masked=True)),
    _attention("causal_padding_scale", qkv(6, 3, 4, 5, masked=True), causal=True, scale=0.7),
    _attention("bias", biased(6, 3, 4, 5, bias=True), scale=1.0),
    _attention("sinks", biased(6, 3, 4, 5, sinks=True)),
    _attention("window_sinks", biased(6, 2, 4, 5, dv=2, sinks=True), causal=True, first=np.array([0, 1, 2, 3])),
    _attention("bias_padding_sinks", biased(4, 2, 3, 5, masked=True, bias=True, sinks=True), causal=True),
    _attention("chunks", qkv(6, 3, 5, 5), causal=True, first=np.array([0, 0, 2, 2, 4])),
    Case(
        ops.dropout,
        lambda r: (r.standard_normal((3, 5)), r.random((3, 5)) > 0.3),
        loops.dropout,
        lambda t, x, m: t.where(m, x / (1 - 0.3), 0.0),
        {"rate": 0.3},
    ),
    _cross_entropy("plain", targets((2, 3), 5)),
    _cross_entropy("ignore", targets((2, 4), 5, -100)),
    _cross_entropy("ignore_a_class", targets((7,), 5, 2), ignore_index=2),
    _cross_entropy("smoothing", targets((2, 4), 5, -100), label_smoothing=0.2),
    Case(ops.mean_pool, lambda r: (r.standard_normal((2, 3, 5)),), loops.mean_pool, lambda t, x: x.mean(1)),
    Case(
        ops.mean_pool,
        lambda r: (r.standard_normal((3, 4, 5)), np.arange(4) < np.array([[2], [0], [3]])),
        loops.mean_pool,
        torch_mean_pool,
        label="mask",
    ),
    Case(ops.mixture, lambda r: (r.standard_normal((3, 2, 5)), r.random(3) + 0.1), loops.mixture, torch_mixture),
    Case(
        ops.mixture,
        lambda r: (r.standard_normal((3, 4, 2, 5)), r.random((3, 4, 2)) + 0.1),
        loops.mixture,
        torch_mixture,
        label="weight_by_row",
    ),
    Case(ops.mixture_nll, voices((3, 4, 5), (3,)), loops.mixture_nll, torch_mixture_nll),
    Case(
        ops.mixture_nll,
        voices((3, 2, 4, 5), (3, 2, 4), True),
        loops.mixture_nll,
        torch_mixture_nll,
        label="weight_by_row_ignore",
    ),
    # fmt: on
]
