"""Random draws as values: made once by the caller's generator, kept in the cache, never made again in backward.

A forward without draws is the evaluation mode: no noise, no jitter, no sampling, every second choice kept (unless its
policy needs no draw), places taken in token order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.config import MoEConfig
from pymoe.moe.router_config import RouterConfig


class Draws(NamedTuple):
    noise: Array | None = None  # (T, n_ids) standard normal: learned or gaussian noise
    jitter: Array | None = None  # (T, D) factors on the router's input, of mean 1
    second: Array | None = None  # (T,) U(0, 1): is the second choice kept?
    gumbel: Array | None = None  # (T, n_ids) standard Gumbel: which experts are sampled
    places: Array | None = None  # (T, K) U(0, 1): who gets a place in the order "random"


def _shapes(r: RouterConfig, tokens: int, width: int) -> dict[str, tuple[int, ...] | None]:
    """The draws of these settings; None: not drawn."""
    drops = r.capacity is not None and r.capacity.order == "random"
    return {
        "noise": (tokens, r.n_ids) if r.noise != "none" else None,
        "jitter": (tokens, width) if r.jitter else None,
        "second": (tokens,) if r.second_threshold is not None and r.second_policy == "random" else None,
        "gumbel": (tokens, r.n_ids) if r.sample != "none" else None,
        "places": (tokens, r.k) if drops else None,
    }


def draw(rng: np.random.Generator, cfg: MoEConfig, tokens: int, dtype: type = np.float64) -> Draws:
    """The draws that ``cfg`` asks for, None for those it does not.

    >>> from pymoe import presets
    >>> draw(np.random.default_rng(0), presets.mixtral(d_model=4, d_ff=8, n_experts=4, k=2), 3)
    Draws(noise=None, jitter=None, second=None, gumbel=None, places=None)
    """
    r = cfg.router
    found: dict[str, np.ndarray] = {}
    for name, shape in _shapes(r, tokens, cfg.d_model).items():
        if shape is None:
            continue
        if name == "noise":
            value = rng.standard_normal(shape)
        elif name == "gumbel":
            value = rng.gumbel(size=shape)
        elif name != "jitter":
            value = rng.random(shape)
        elif r.jitter_form == "uniform":
            value = rng.uniform(1 - r.jitter, 1 + r.jitter, shape)
        else:
            value = (rng.random(shape) >= r.jitter) / (1 - r.jitter)
        found[name] = value.astype(dtype)
    return Draws(**found)


def checked(draws: Draws | None, x: Array, cfg: RouterConfig) -> Draws:
    """The draws in the precision and on the device of x; what the settings do not draw is refused."""
    if draws is None:
        return Draws()
    xp = namespace(x)
    found: dict[str, Array] = {}
    for name, shape in _shapes(cfg, *x.shape).items():
        value = getattr(draws, name)
        if value is not None:
            if shape is None:
                raise ConfigError(
                    f"draws.{name} was given, but these settings draw none: use moe.draw(rng, cfg, tokens)"
                )
            check_shape(f"draws.{name}", value, shape)
            found[name] = xp.astype(xp.asarray(value, device=device(x)), real(x).dtype, copy=False)
    return Draws(**found)
