"""Trees with stored weights as trees of arrays, and back: what optimisers, checkpoints and checks of gradients need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import ShapeError
from pymoe.storage.weight import Weight


def split(p: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Weight]]:
    """(the tree with the dict of its parts in the place of each Weight, {flat name: the Weight}).

    >>> import numpy as np
    >>> from pymoe import storage
    >>> p = {"experts": {"down_proj": storage.csr.from_dense(np.array([[[0.0, 2.0]]]))}, "norm": np.ones(1)}
    >>> arrays, templates = split(p)
    >>> arrays
    {'experts': {'down_proj': {'data': array([2.])}}, 'norm': array([1.])}
    >>> templates
    {'experts.down_proj': CSR(shape=(1, 1, 2), nnz=1, dtype=float64)}
    """
    templates: dict[str, Weight] = {}
    return _split(p, "", templates), templates


def _split(p: Mapping[str, Any], prefix: str, templates: dict[str, Weight]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for key, value in p.items():
        if isinstance(value, Weight):
            templates[prefix + key] = value
            arrays[key] = value.parts()
        else:
            arrays[key] = _split(value, f"{prefix}{key}.", templates) if isinstance(value, Mapping) else value
    return arrays


def join(arrays: Mapping[str, Any], templates: Mapping[str, Weight]) -> dict[str, Any]:
    """The inverse: at each name of ``templates`` a Weight with its structure and the parts that stand there.

    Parts of other names or shapes, and a name that the tree has not, are a ShapeError.

    >>> import numpy as np
    >>> from pymoe import storage
    >>> _, templates = split({"w": storage.csr.from_dense(np.array([[0.0, 2.0]]))})
    >>> join({"w": {"data": np.array([5.0])}}, templates)["w"].dense()
    array([[0., 5.]])
    """
    left = set(templates)
    p = _join(arrays, "", templates, left)
    if left:
        raise ShapeError(f"the tree has no place for the stored weights {sorted(left)}")
    return p


def _join(arrays: Mapping[str, Any], prefix: str, templates: Mapping[str, Weight], left: set[str]) -> dict[str, Any]:
    p: dict[str, Any] = {}
    for key, value in arrays.items():
        name = prefix + key
        if name in templates:
            left.discard(name)
            if not isinstance(value, Mapping):
                raise ShapeError(f"{name} must be the parts of a {templates[name]!r}, got {type(value).__name__}")
            p[key] = templates[name].like(value)
        else:
            p[key] = _join(value, f"{name}.", templates, left) if isinstance(value, Mapping) else value
    return p
