r"""One tensor read in several places of a model: stored once, its gradient the sum over its readers.

Forward, ties = {name without a tensor of its own: name that holds it}::

    p_full[name] = p[ties[name]]                            references, no copies

Backward::

    dp[holder] = dp_full[holder] + Σ_{name: ties[name] = holder} dp_full[name]          a written sum

``expand`` and ``collect`` are that pair for trees; ``forward`` and ``backward`` wrap a layer or a model with it, so that
``verify.gradcheck`` sees the summed gradient.  Experts of one layer are tied by ``MoEConfig.tied``, and with a prefix
here those of two layers, as in Universal Transformers (arXiv:1807.03819) and ALBERT (arXiv:1909.11942, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, ShapeError

Ties = Mapping[str, str]


class Cache(NamedTuple):
    inner: ModuleType
    cache: Any
    ties: dict[str, str]
    order: tuple[str, ...]  # the flat names of p


def check(names: list[str], ties: Ties) -> None:
    """ConfigError unless every tie leads, in one step, from a name that p has not to one that it has."""
    held = set(names)
    for name, holder in ties.items():
        if holder not in held:
            chain = f"; {holder!r} is tied itself: name the tensor that is stored" if holder in ties else ""
            raise ConfigError(f"{name!r} is tied to {holder!r}, which the parameters do not have{chain}")
        if name in held:
            raise ConfigError(f"{name!r} is tied to {holder!r} and has a tensor of its own: take that out, or the tie")


def expand(p: tree.Tree, ties: Ties) -> dict[str, Any]:
    """The tree as the model reads it: every tied name refers to the tensor of its holder.

    >>> import numpy as np
    >>> expand({"a": {"w": np.ones(2)}}, {"b.w": "a.w"})
    {'a': {'w': array([1., 1.])}, 'b': {'w': array([1., 1.])}}
    """
    flat = tree.flatten(p)
    check(list(flat), ties)
    return tree.unflatten(flat | {name: flat[holder] for name, holder in ties.items()})


def collect(dp: tree.Tree, ties: Ties) -> dict[str, Any]:
    """The backward of ``expand``.

    >>> import numpy as np
    >>> collect({"a": {"w": np.ones(2)}, "b": {"w": 3 * np.ones(2)}}, {"b.w": "a.w"})
    {'a': {'w': array([4., 4.])}}
    """
    flat = tree.flatten(dp)
    missing = [name for name in (*ties, *ties.values()) if name not in flat]
    if missing:
        raise ShapeError(f"the gradients have no {missing[0]!r}, which is tied")
    summed = {name: g for name, g in flat.items() if name not in ties}
    for name, holder in ties.items():
        if flat[name].shape != flat[holder].shape:
            raise ShapeError(f"{name!r} {flat[name].shape} is tied to {holder!r} {flat[holder].shape}: shapes differ")
        summed[holder] = summed[holder] + flat[name]
    return tree.unflatten(summed)


def untie(p: tree.Tree, ties: Ties) -> dict[str, Any]:
    """The parameters to store: the full tree without its tied names (what stood there is lost)."""
    flat = tree.flatten(p)
    left = {name: a for name, a in flat.items() if name not in ties}
    check(list(left), ties)
    return tree.unflatten(left)


def forward(
    x: Any, p: tree.Tree, cfg: Any, inner: ModuleType, ties: Ties, *rest: Any, **static: Any
) -> tuple[Any, Cache]:
    """``inner.forward(x, expand(p, ties), cfg, ...)``; inner: a layer or model module."""
    out, cache = inner.forward(x, expand(p, ties), cfg, *rest, **static)
    return out, Cache(inner, cache, dict(ties), tuple(tree.flatten(p)))


def backward(dout: Any, cache: Cache, dlosses: Any = None) -> tuple[Any, dict[str, Any]]:
    """(dx, dp) with the keys of the p that was given."""
    inner, own, ties, order = cache
    dx, dp = inner.backward(dout, own) if dlosses is None else inner.backward(dout, own, dlosses)
    flat = tree.flatten(collect(dp, ties))
    return dx, tree.unflatten({name: flat[name] for name in order})
