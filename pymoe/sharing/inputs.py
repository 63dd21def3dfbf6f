"""What surgery refuses at its door, worded once: another tree, another shape, NaN, a count that is none.

Surgery copies, averages and ranks weights; one NaN in them would be in every expert that comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.sparsity.inputs import place


def finite(name: str, a: Array) -> None:
    """``a`` is floating point and holds neither NaN nor infinity; else DtypeError, NonFiniteError with the place.

    >>> import numpy as np
    >>> finite("down_proj", np.array([[1.0, 2.0], [3.0, np.nan]]))
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.NonFiniteError: down_proj is nan at (1, 1): surgery would copy it; find the step that made it
    """
    checks.floating(name, a)
    xp = namespace(a)
    bad = ~xp.isfinite(a)
    if bool(xp.any(bad)):
        flat = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int64)))
        value = xp.reshape(a, (-1,))[flat]
        at = place(flat, tuple(a.shape))
        raise NonFiniteError(f"{name} is {value} at {at}: surgery would copy it; find the step that made it")


def dense_shapes(cfg: FeedForwardConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of a dense feed-forward, in the order of ``nn.feed_forward.init``.

    >>> dense_shapes(FeedForwardConfig(d_model=3, d_ff=4))
    {'gate_up_proj': (8, 3), 'down_proj': (3, 4)}
    """
    wide = 2 * cfg.d_ff if cfg.gated else cfg.d_ff
    found: dict[str, tuple[int, ...]] = {cfg.up_name: (wide, cfg.d_model)}
    if cfg.bias:
        found[cfg.up_name + "_bias"] = (wide,)
    found["down_proj"] = (cfg.d_model, cfg.d_ff)
    if cfg.bias:
        found["down_proj_bias"] = (cfg.d_model,)
    return found


def dense(p: Mapping[str, Any], cfg: FeedForwardConfig) -> None:
    """ShapeError unless p has exactly the names and shapes of the dense feed-forward ``cfg``; and all of it finite."""
    expected = dense_shapes(cfg)
    if p.keys() != expected.keys():
        raise ShapeError(
            "the parameters are not those of this dense feed-forward: "
            f"missing {sorted(expected.keys() - p.keys())}, unexpected {sorted(p.keys() - expected.keys())}"
        )
    for name, shape in expected.items():
        check_shape(name, p[name], shape)
        finite(name, p[name])


def divided(what: str, f: int, e: int) -> int:
    """f / e where e divides f, else ConfigError that names the counts that would.

    >>> divided("hidden units", 12, 5)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: 12 hidden units cannot be dealt out evenly to 5: take a divisor, e.g. 4 or 6
    """
    check_integer(what, f)
    check_integer("the number of parts", e)
    if f % e:
        below = max(n for n in range(1, e) if f % n == 0)
        above = min((n for n in range(e + 1, f + 1) if f % n == 0), default=f)
        raise ConfigError(f"{f} {what} cannot be dealt out evenly to {e}: take a divisor, e.g. {below} or {above}")
    return f // e
