"""What the rules of this package have in common: the form of the experts, their parameters, and the way in and out.

A rule's ``Config`` begins with the fields of ``Form``; they mean what they mean in ``MoEConfig``.  ``shapes`` of a rule
is a dict from dotted names to shapes, from which ``init`` draws and against which ``check`` looks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, is_complex, is_floating, namespace, real, tree
from pymoe.backend.errors import ConfigError, DtypeError, NonFiniteError, ShapeError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe import experts, plan
from pymoe.moe.form import Form as ExpertForm
from pymoe.moe.router import Routing
from pymoe.moe.router_checks import one_of

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Form:
    """E experts from D = d_model over F = d_ff to D: gated or not, the activation, biases; as in ``MoEConfig``."""

    d_model: int
    d_ff: int
    n_experts: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False

    def __post_init__(self) -> None:
        check_integer("d_model", self.d_model)
        check_integer("d_ff", self.d_ff)
        check_integer("n_experts", self.n_experts)
        one_of("activation", self.activation, tuple(sorted(ACTIVATIONS)))


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # 0-d, by name, without coefficients
    routing: Routing


class Frame(NamedTuple):
    """What backward needs to know of the input: its name for messages, its shape and its dtype."""

    rule: str
    shape: tuple[int, ...]
    dtype: Any
    losses: tuple[str, ...]


def choices(name: str, k: int, n: int) -> None:
    """ConfigError unless 1 <= k <= n.

    >>> choices("k", 3, 2)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: k must not exceed the 2 there are to choose from, got 3
    """
    check_integer(name, k)
    if k > n:
        raise ConfigError(f"{name} must not exceed the {n} there are to choose from, got {k}")


def losses(given: Any, known: tuple[str, ...]) -> None:
    """ConfigError unless ``given`` is a tuple of known names.

    >>> losses("balance", ("balance",))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: losses must be a tuple of names, got the string 'balance'
    """
    if isinstance(given, str):
        raise ConfigError(f"losses must be a tuple of names, got the string {given!r}")
    for name in given:
        one_of("losses", name, known)


def expert_shapes(cfg: Form, lead: int | None = None) -> Shapes:
    """Names and shapes of the experts' parameters; ``lead``: how many, if not all n_experts.

    >>> expert_shapes(Form(5, 6, 4, gated=False, bias=True))  # doctest: +NORMALIZE_WHITESPACE
    {'experts.up_proj': (4, 6, 5), 'experts.up_proj_bias': (4, 6), 'experts.down_proj': (4, 5, 6),
     'experts.down_proj_bias': (4, 5)}
    """
    n = cfg.n_experts if lead is None else lead
    up, down = experts.names(cfg.gated)
    wide = 2 * cfg.d_ff if cfg.gated else cfg.d_ff
    found: Shapes = {f"experts.{up}": (n, wide, cfg.d_model)}
    if cfg.bias:
        found[f"experts.{up}_bias"] = (n, wide)
    found[f"experts.{down}"] = (n, cfg.d_model, cfg.d_ff)
    if cfg.bias:
        found[f"experts.{down}_bias"] = (n, cfg.d_model)
    return found


def init(rng: np.random.Generator, shapes: Shapes, dtype: Any = np.float64, **constant: float) -> dict[str, Any]:
    """A tree: normal with std 1/√fan_in, biases 0; ``constant``: the value of a leaf by the last part of its name.

    >>> init(np.random.default_rng(0), {"router.bias": (2,), "router.scale": (2,)}, scale=1.0)
    {'router': {'bias': array([0., 0.]), 'scale': array([1., 1.])}}
    """
    flat: dict[str, Any] = {}
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        if leaf in constant:
            flat[name] = np.full(shape, constant[leaf], dtype)
        elif leaf.endswith("bias"):
            flat[name] = np.zeros(shape, dtype)
        else:
            flat[name] = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)
    return tree.unflatten(flat)


def enter(
    rule: str,
    x: Array,
    p: Mapping[str, Any],
    shapes: Shapes,
    width: int,
    mask: Array | None,
    losses: tuple[str, ...] = (),
) -> tuple[Array, Array | None, Frame]:
    """(x (T, D), mask (T,), frame) of x (T, D) or (B, S, D), checked; what stands in the padding, even NaN, becomes 0.

    width: D.  Wrong widths, masks of another shape and parameters of other settings are a ShapeError, integers a
    DtypeError.
    """
    xp = namespace(x)
    flat, shape = tree.flatten(p), tuple(x.shape)
    if flat.keys() != shapes.keys():
        raise ShapeError(
            f"{rule}: the parameters are not those of these settings: missing {sorted(shapes.keys() - flat.keys())}, "
            f"unexpected {sorted(flat.keys() - shapes.keys())}"
        )
    for name, expected in shapes.items():
        check_shape(f"{rule}: {name}", flat[name], expected)
    if not is_floating(x):
        raise DtypeError(f"{rule}: x must be floating point, got {x.dtype}: cast it explicitly")
    if len(shape) < 2 or shape[-1] != width:
        raise ShapeError(f"{rule}: x must have shape (T, {width}) or (B, S, {width}), got {shape}")
    x = xp.reshape(x, (-1, width))
    if mask is not None:
        check_shape(f"{rule}: mask", mask, shape[:-1])
        if not xp.isdtype(mask.dtype, "bool"):
            raise DtypeError(f"{rule}: mask must be bool, True for real tokens, got {mask.dtype}: write mask != 0")
        mask = xp.reshape(mask, (-1,))
        x = xp.where(mask[:, None], x, xp.zeros_like(x))
    return x, mask, Frame(rule, shape, x.dtype, losses)


def leave(y: Array, frame: Frame) -> Array:
    """y (T, D) in the shape of x."""
    return namespace(y).reshape(y, frame.shape)


def upstream(dy: Array, frame: Frame, dlosses: Mapping[str, Any] | None) -> tuple[Array, dict[str, Any]]:
    """(dy (T, D) in the precision of y, the cotangents of the losses); a loss that is not computed is an error."""
    xp = namespace(dy)
    check_shape(f"{frame.rule}: dy", dy, frame.shape)
    if not is_floating(dy):
        raise DtypeError(f"{frame.rule}: dy must be floating point, got {dy.dtype}: cast it explicitly")
    given = {} if dlosses is None else dict(dlosses)
    unknown = sorted(set(given) - set(frame.losses))
    if unknown:
        raise ShapeError(f"{frame.rule}: no such loss here: {unknown}; it has {sorted(frame.losses)}")
    dy = xp.reshape(dy, (-1, frame.shape[-1]))
    return (dy if is_complex(dy) else xp.astype(dy, frame.dtype, copy=False)), {
        name: xp.asarray(value, device=device(dy)) for name, value in given.items()
    }


def finite(rule: str, z: Array) -> None:
    """NonFiniteError with the place of the first logit of z (T, E) that is NaN or infinite: it has no rank.

    >>> finite("some rule", np.array([[0.0, 1.0], [np.nan, 2.0]]))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.NonFiniteError: some rule: the logit is nan at (token 1, expert 0): find where it came from
    """
    xp, values = namespace(z), real(z)
    bad = ~xp.isfinite(values)
    if bool(xp.any(bad)):
        first = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int64)))
        token, expert = divmod(first, int(z.shape[-1]))
        value = float(xp.reshape(values, (-1, z.shape[-1]))[token, expert])
        raise NonFiniteError(
            f"{rule}: the logit is {value} at (token {token}, expert {expert}): find where it came from"
        )


def of_tokens(mask: Array | None, idx: Array) -> Array | None:
    """kept (T, K): every choice of a real token; None: all."""
    return None if mask is None else namespace(mask).broadcast_to(mask[:, None], idx.shape)


def number_of(mask: Array | None, tokens: int) -> int:
    """How many tokens are real."""
    if mask is None:
        return tokens
    xp = namespace(mask)
    return int(xp.sum(xp.astype(mask, xp.int64)))


def fractions(load: Array) -> Array:
    """f (E,) of a balance loss: the share of each expert in the choices, a constant; of no choice at all 0.

    >>> fractions(np.array([3, 1]))
    array([0.75, 0.25])
    """
    xp = namespace(load)
    return xp.astype(load, xp.float64) / max(int(xp.sum(load)), 1)


def dispatch(
    x: Array, g: Array, p: Mapping[str, Any], idx: Array, kept: Array | None, cfg: Form
) -> tuple[Array, Routing, experts.Cache]:
    """(y, routing, cache): tokens x (T, D) through their kept experts idx (T, K), weighted by g (T, K)."""
    chosen = plan.make(idx, kept, cfg.n_experts)
    y, cache = experts.forward(x, g, p, chosen, form=ExpertForm(cfg.activation, cfg.gated))
    return y, Routing(idx=idx, weight=g, kept=kept, load=chosen.start[1:] - chosen.start[:-1]), cache


def collect(dy: Array, cache: experts.Cache) -> tuple[Array, Array, dict[str, Any]]:
    """(dx, dg, the gradients of the experts' parameters)."""
    dx, d = experts.backward(dy, cache)
    return dx, d["g"], {name: d[name] for name in cache.p}
