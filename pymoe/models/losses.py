r"""The losses of a model: one for its targets, and those of its MoE layers, averaged over these layers.

Forward::

    loss = 1/n Σ_l loss_l                  over the n layers that have a loss of this name

Backward::

    dloss_l = dloss / n

The mean keeps a coefficient's meaning when depth changes, and each layer balances by itself: losses pooled over layers
before the product f P can call a model balanced whose layers have each collapsed on another expert.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.ops import cross_entropy, linear

LayerLosses = tuple[dict[str, Array], ...]  # one dict a block, empty where it is dense
LayerNames = tuple[tuple[str, ...], ...]


def mean(layers: LayerLosses) -> dict[str, Array]:
    """Each loss, averaged over the layers that have it.

    >>> mean(({}, {"balance": 1.0}, {"balance": 2.0}))
    {'balance': 1.5}
    """
    by_name: dict[str, list[Array]] = {}
    for losses in layers:
        for name, value in losses.items():
            by_name.setdefault(name, []).append(value)
    return {name: sum(values[1:], values[0]) / len(values) for name, values in by_name.items()}


def names(layers: LayerLosses) -> LayerNames:
    """Which losses each layer has: all that ``share`` needs of them."""
    return tuple(tuple(layer) for layer in layers)


def share(dlosses: dict[str, Any], layers: LayerNames) -> tuple[dict[str, Any], ...]:
    """The backward of ``mean``: what each layer is given.

    >>> share({"balance": 1.0}, ((), ("balance", "z"), ("balance",)))
    ({}, {'balance': 0.5}, {'balance': 0.5})
    """
    counts = {name: sum(name in layer for layer in layers) for name in dlosses}
    return tuple({name: dlosses[name] / counts[name] for name in layer if name in dlosses} for layer in layers)


def split(
    dlosses: dict[str, Any] | None, main: str, has_targets: bool, layers: LayerNames
) -> tuple[Any, dict[str, Any]]:
    """(the cotangent of ``main`` or None, those of the layers' losses), all of losses that this forward computed."""
    dlosses = {} if dlosses is None else dlosses
    known = {name for layer in layers for name in layer} | ({main} if has_targets else set())
    unknown = sorted(set(dlosses) - known)
    if unknown:
        why = f"; {main!r} needs targets in forward" if main in unknown else ""
        raise ConfigError(f"this forward computed the losses {sorted(known)}, but cotangents came for {unknown}{why}")
    return dlosses.get(main), {name: d for name, d in dlosses.items() if name != main}


def logits_backward(
    dlogits: Array | None, dloss: Any, c_loss: cross_entropy.Cache | None, c_head: linear.Cache
) -> Array:
    """The cotangent of the logits: what the caller gives plus what the loss gives; zero if neither does."""
    shape = (*c_head.x.shape[:-1], c_head.weight.shape[0])
    if dlogits is not None:
        check_shape("dlogits", dlogits, shape)
    if dloss is None or c_loss is None:
        return namespace(c_head.x).zeros(shape, dtype=c_head.x.dtype) if dlogits is None else dlogits
    from_loss, _ = cross_entropy.backward(dloss, c_loss)
    return from_loss if dlogits is None else dlogits + from_loss
