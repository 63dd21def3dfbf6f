r"""A MoE layer some of whose weights are switched off: the masks are an argument, and so is their gradient's zero.

Forward::

    w' = w ⊙ mask for each named parameter        out = moe(x, p')

Backward::

    dx, dp' = backward of moe at p'               dw = dw' ⊙ mask

⊙ chooses, it does not multiply: a pruned weight is exactly 0 in p' even where w is NaN or infinite, and its gradient is
exactly 0 whatever dw' is.  Source: Zhu & Gupta, arXiv:1710.01878, section 3.  Cost: that of ``moe`` plus one pass over
the masked parameters each way; masks are bool, 1 byte a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import ShapeError
from pymoe.backend.namespace import Array
from pymoe.moe import Draws, MoEConfig
from pymoe.ops import masked
from pymoe.sparsity.masks import fit

Masks = Mapping[str, Array]  # flat name -> bool, True where the weight stays; a name that is missing stays whole


class Cache(NamedTuple):
    moe: moe.Cache
    masks: dict[str, Array]


def apply(p: Mapping[str, Any], masks: Masks) -> dict[str, Any]:
    """The tree p with exactly 0 where a mask is False; tensors without a mask are the given ones, not copies.

    Any tree of parameters, names as ``tree.flatten`` makes them.  ShapeError for a name that p lacks or another shape,
    DtypeError for a mask that is not bool, both with the name.

    >>> import numpy as np
    >>> apply({"a": {"w": np.array([np.nan, 2.0])}}, {"a.w": np.array([False, True])})
    {'a': {'w': array([0., 2.])}}
    """
    flat = check(p, masks)
    return tree.unflatten(flat | {name: masked.forward(flat[name], mask=mask)[0] for name, mask in masks.items()})


def forward(
    x: Array,
    p: Mapping[str, Any],
    cfg: MoEConfig,
    masks: Masks,
    mask: Array | None = None,
    draws: Draws | None = None,
) -> tuple[moe.Output, Cache]:
    """(out, cache) of ``moe.forward`` at the masked parameters; masks {"experts.down_proj": bool (E, D, F), ...}.

    x, mask (of real tokens) and draws as ``moe.forward``.  Errors as ``apply`` and ``moe.forward``.

    >>> import numpy as np
    >>> from pymoe import presets
    >>> from pymoe.sparsity import masks
    >>> cfg = presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2)
    >>> p = moe.init(np.random.default_rng(0), cfg)
    >>> half = {"experts.down_proj": masks.magnitude(p["experts"]["down_proj"], 0.5)}
    >>> out, cache = forward(np.ones((3, 5)), p, cfg, half)
    >>> dx, dp = backward(np.ones((3, 5)), cache)
    >>> int(np.count_nonzero(dp["experts"]["down_proj"][~half["experts.down_proj"]]))
    0
    """
    out, cache = moe.forward(x, apply(p, masks), cfg, mask, draws)
    return out, Cache(cache, dict(masks))


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp): ``moe.backward`` at the masked parameters, dp exactly 0 where a weight is pruned.

    (RigL wants the dense gradient there: ``moe.backward(dy, cache.moe)``.)
    """
    dx, dp = moe.backward(dy, cache.moe, dlosses)
    flat = tree.flatten(dp)
    kept = {name: masked.backward(flat[name], masked.Cache(mask))[0] for name, mask in cache.masks.items()}
    return dx, tree.unflatten(flat | kept)


def check(p: Mapping[str, Any], masks: Masks) -> dict[str, Any]:
    """The flat p; ShapeError for a mask of a name that p lacks or of another shape, DtypeError for one not bool."""
    flat = tree.flatten(p)
    unknown = sorted(set(masks) - set(flat))
    if unknown:
        raise ShapeError(f"masks for parameters that are not there: {unknown}; there are {sorted(flat)}")
    for name, mask in masks.items():
        fit.check(flat[name], mask, f"the mask of {name}")
    return flat
