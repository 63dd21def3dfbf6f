"""What the optimisers share: a map over the leaves of several trees that also knows the leaves' names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymoe.backend import is_floating, tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.backend.tree import Tree

Decays = Callable[[str, Array], bool]


def is_matrix(name: str, leaf: Array) -> bool:
    """The default rule for weight decay: matrices decay; gains, biases and the experts' stacked biases do not.

    >>> import numpy as np
    >>> w = np.ones((4, 5))
    >>> is_matrix("router.weight", w), is_matrix("norm.weight", w[0]), is_matrix("experts.down_proj_bias", w)
    (True, False, False)
    """
    return leaf.ndim >= 2 and not name.rsplit(".", 1)[-1].endswith("bias")


def leaves(f: Callable[..., tuple[Array, ...]], p: Tree, *others: Tree) -> tuple[dict[str, Any], ...]:
    """f(name, leaf of p, leaves of the others) -> a tuple; returns that many trees, each with the keys of p.

    The others are the gradients, then the state.  A leaf of integers (a table of token ids) is no parameter: it stays,
    and so does its state.
    """
    flat = tree.flatten(p)
    rest = [tree.flatten(other) for other in others]
    for other in rest:
        if other.keys() != flat.keys():
            raise ShapeError(
                f"parameters, gradients and optimiser state must have the same names; only in one of them: "
                f"{sorted(flat.keys() ^ other.keys())[:5]}"
            )
    results = {
        name: f(name, leaf, *(other[name] for other in rest))
        if is_floating(leaf)
        else (leaf, *(other[name] for other in rest[1:]))
        for name, leaf in flat.items()
    }
    width = len(next(iter(results.values()), ()))
    return tuple(tree.unflatten({name: result[i] for name, result in results.items()}) for i in range(width))


def positive(**settings: float) -> None:
    """Rates and decays are not negative; a wrong sign climbs instead of descending and nobody notices at once."""
    for name, value in settings.items():
        if not value >= 0:
            raise ConfigError(f"{name} must be >= 0, got {value}")


def momentum(**settings: float) -> None:
    """A moving average needs a factor in [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} must be in [0, 1), got {value}")
