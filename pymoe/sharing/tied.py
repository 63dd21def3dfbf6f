r"""Weights that several places of a model read and one place holds; the gradient is the sum over all that read it.

    full tree q:   q[name] = p[ties[name]]  for each tied name,  q[name] = p[name]  for all others
    dp[name]       = dq[name] + Σ dq[tied]  over the tied names that read it

Names are dotted, of one array ("layers.1.mlp.experts.down_proj") or of a whole branch ("layers.1.mlp.experts").
``forward`` and ``backward`` are those of any layer or model on the expanded tree, so that a check or an optimiser sees
each weight once.  Expanding copies nothing.  (Experts tied within one layer are ``MoEConfig.tied``.)

Sources: tied matrices, Press and Wolf, arXiv:1608.05859; layers that share all of them, ALBERT, arXiv:1909.11942;
experts of several layers, WideNet, arXiv:2107.11817.  Cost: one addition for each tied weight, backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array

Ties = Mapping[str, str]  # a name that is not stored -> the name that holds its weight


class Cache(NamedTuple):
    inner: Any  # the module
    cache: Any  # of its forward
    ties: Ties


def forward(x: Array, p: Mapping[str, Any], inner: Any, cfg: Any, ties: Ties, **more: Any) -> tuple[Any, Cache]:
    """``inner.forward(x, expand(p, ties), cfg, ...)`` of a layer or model module ``inner``.

    >>> import numpy as np
    >>> from pymoe.models import lm
    >>> cfg = lm.LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> ties = {"layers.1.mlp": "layers.0.mlp"}
    >>> p = drop(lm.init(np.random.default_rng(0), cfg), ties)
    >>> out, cache = forward(np.array([[1, 2, 3]]), p, lm, cfg, ties, targets=np.array([[2, 3, 4]]))
    >>> _, dp = backward(None, cache, {"lm": 1.0})
    >>> "mlp" in dp["layers"]["1"], dp["layers"]["0"]["mlp"]["down_proj"].shape
    (False, (6, 4))
    """
    out, cache = inner.forward(x, expand(p, ties), cfg, **more)
    return out, Cache(inner, cache, ties)


def backward(dy: Any, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """dx and the gradient of what p stores."""
    inner, inner_cache, ties = cache
    dx, dq = inner.backward(dy, inner_cache) if dlosses is None else inner.backward(dy, inner_cache, dlosses)
    return dx, collect(dq, ties)


def expand(p: Mapping[str, Any], ties: Ties) -> dict[str, Any]:
    """The full tree: references to the arrays of p, in new dicts.

    >>> expand({"a": {"w": 1.0}, "b": {}}, {"b.w": "a.w"})
    {'a': {'w': 1.0}, 'b': {'w': 1.0}}
    """
    check(ties)
    full = _copied(p)
    for name, holder in ties.items():
        if _find(p, name) is not None:
            raise ConfigError(f"{name!r} is tied to {holder!r}, but the tree stores it too: tied.drop(p, ties)")
        value = _find(p, holder)
        if value is None:
            raise ConfigError(f"{name!r} is tied to {holder!r}, which the tree does not store: it has {_names(p)}")
        *parents, leaf = name.split(".")
        node = full
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{name!r} is tied, but {parent!r} on the way to it is an array")
        node[leaf] = _copied(value) if isinstance(value, Mapping) else value
    return full


def collect(dq: Mapping[str, Any], ties: Ties) -> dict[str, Any]:
    """The gradient of what is stored, from that of the full tree: each holder's, and all that read it, summed.

    >>> collect({"a": {"w": 1.0}, "b": {"w": 10.0, "c": 2.0}}, {"b.w": "a.w"})
    {'a': {'w': 11.0}, 'b': {'c': 2.0}}
    """
    check(ties)
    flat = tree.flatten(dq)
    stored = tree.flatten(drop(dq, ties))
    for name, holder in ties.items():
        read, held = _below(flat, name), _below(stored, holder)
        if read.keys() != held.keys():
            raise ShapeError(
                f"the gradient of {name!r} has other leaves than {holder!r}: {sorted(read.keys() ^ held.keys())}"
            )
        for leaf, d in read.items():
            stored[holder + leaf] = stored[holder + leaf] + d
    return tree.unflatten(stored)


def drop(p: Mapping[str, Any], ties: Ties) -> dict[str, Any]:
    """The tree without the tied names: from now on they are what their holders are, their own values are lost.

    A branch of which nothing is left goes too.  A name that is not there: ConfigError; a holder of other shapes:
    ShapeError.

    >>> drop({"a": {"w": 1.0}, "b": {"w": 10.0, "c": 2.0}}, {"b.w": "a.w"})
    {'a': {'w': 1.0}, 'b': {'c': 2.0}}
    """
    check(ties)
    flat = tree.flatten(p)
    gone: set[str] = set()
    for name, holder in ties.items():
        read, held = _below(flat, name), _below(flat, holder)
        for what, found in ((name, read), (holder, held)):
            if not found:
                raise ConfigError(f"there is no {what!r} in the tree: it has {_names(p)}")
        shapes = [{leaf: getattr(a, "shape", ()) for leaf, a in found.items()} for found in (read, held)]
        if shapes[0] != shapes[1]:
            raise ShapeError(f"{name!r} cannot be tied to {holder!r}: it has {shapes[0]}, the holder {shapes[1]}")
        gone |= {name + leaf for leaf in read}
    return tree.unflatten({name: a for name, a in flat.items() if name not in gone})


def check(ties: Ties) -> None:
    """ConfigError for a name tied to itself, to one that is tied itself (a chain, a circle), or to a part of itself."""
    for name, holder in ties.items():
        for what in (name, holder):
            if not isinstance(what, str) or not all(what.split(".")):
                raise ConfigError(f"ties are dotted names of the tree, got {what!r}")
        if _overlap(name, holder):
            raise ConfigError(f"{name!r} is tied to {holder!r}: a weight cannot hold itself or a part of itself")
        for other in ties:
            if _overlap(holder, other):
                raise ConfigError(
                    f"{name!r} is tied to {holder!r}, but {other!r} is tied to {ties[other]!r}: tie both to the one "
                    "that is stored"
                )
            if other != name and _overlap(name, other):
                raise ConfigError(f"{name!r} and {other!r} are both tied, and one is a part of the other: name it once")


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def _below(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{"" or ".rest": leaf} of the leaves at or below ``name``."""
    return {full[len(name) :]: a for full, a in flat.items() if full == name or full.startswith(name + ".")}


def _find(p: Mapping[str, Any], name: str) -> Any:
    """What the tree has at ``name``; None for nothing, and for a branch without leaves."""
    node: Any = p
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return None if isinstance(node, Mapping) and not tree.flatten(node) else node


def _copied(p: Mapping[str, Any]) -> dict[str, Any]:
    """New dicts, the same arrays."""
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in p.items()}


def _names(p: Mapping[str, Any]) -> str:
    """The first few names of a tree, for a message."""
    names = list(tree.flatten(p))
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
