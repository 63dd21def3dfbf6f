r"""M-SMoE: groups of experts that the router treats alike, each around one of the most used experts.

With z (T, E) the router's logits and n_e how often expert e was chosen, over calibration tokens::

    dominant      the n_groups experts of largest n_e                             (of equal ones the lowest id)
    other e       joins the dominant d of largest cos(z_:e, z_:d)                 (of equal ones the lowest id)
    merged        E_g = Σ_{e in g} n_e P_e E_e / Σ n_e        P_e aligns e to its dominant expert (``align``)

The router keeps its E rows, and the ids of a group share one stored expert (``MoEConfig.tied``).  ``merge_groups`` with
how="frequency" and align=True does the merging.  ``share_out``: how many groups each layer gets where all layers keep a
number of experts together.  Source: Li et al., arXiv:2310.01334, section 3.2.
Cost: T E n_groups multiply-adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, NonFiniteError, check_shape
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import experts as single


def groups(router_logits: Array, count: Any, n_groups: int, *, tied: tuple[int, ...] | None = None) -> np.ndarray:
    """group_of (E,) of router_logits (T, E) and count (E,); groups are numbered by the lowest id in them.

    tied: of a layer whose experts are tied already (``MoEConfig.tied``): ``count`` is then of the G stored experts, the
    logits of a stored expert are the mean over its ids, and group_of is (G,).  NaN: NonFiniteError; a number of groups
    that is out of range, or counts of another number of experts: ConfigError.

    >>> z = np.array([[1.0, 2.0, -1.0, 0.9], [2.0, -1.0, 0.5, 2.1]])
    >>> groups(z, [5, 9, 1, 2], n_groups=2)  # experts 0 and 1 are dominant; 3 is like 0; 2 is the opposite of 1
    array([0, 1, 0, 0])
    """
    check_shape("router_logits", router_logits, (None, None))
    z = single.read("router_logits", router_logits)
    if tied is not None:
        table = np.asarray(tied)
        if len(table) != z.shape[1]:
            raise ConfigError(f"tied names {len(table)} ids, but the router's logits are of {z.shape[1]}")
        z = np.stack([z[:, table == g].mean(1) for g in range(int(table.max()) + 1)], axis=1)
    head = dominant(count, n_groups)
    if len(np.asarray(count)) != z.shape[1]:
        raise ConfigError(f"count is of {len(np.asarray(count))} experts, the router's logits are of {z.shape[1]}")
    length = np.sqrt((z * z).sum(0))
    unit = z / np.where(length > 0, length, 1.0)  # a column of zeros is like nothing: cosine 0
    group_of = np.argmax(unit.T @ unit[:, head], axis=1)
    group_of[head] = np.arange(len(head))
    return single.numbered(group_of)


def share_out(counts: list[Any], total: int) -> list[int]:
    """The groups of each layer where all keep ``total`` experts together: a layer that uses its own evenly keeps more.

    counts: for each layer n_e (E_l,).  The most used expert of each layer stays, and then those of largest n_e / Σ n
    of all layers (of equal ones the lower layer, the lower id).  total must lie between the number of layers and that
    of all experts; a layer that no token reached has shares of 0.

    >>> share_out([[90, 5, 3, 2], [30, 30, 20, 20]], 5)
    [1, 4]
    """
    use = [_count(f"counts[{i}]", c) for i, c in enumerate(counts)]
    least, most = len(use), sum(len(n) for n in use)
    if isinstance(total, bool) or not isinstance(total, int) or not least <= total <= most:
        raise ConfigError(
            f"total must be a number of experts from {least} (one a layer) to {most} (all), got {total!r}"
        )
    share = [n / max(float(n.sum()), 1.0) for n in use]
    first = [int(np.argmax(s)) for s in share]
    others = [(-s[e], i, e) for i, s in enumerate(share) for e in range(len(s)) if e != first[i]]
    given = [1] * least
    for _, i, _ in sorted(others)[: total - least]:
        given[i] += 1
    return given


def dominant(count: Any, n_groups: int) -> np.ndarray:
    """(n_groups,) ascending ids of the experts that were chosen most; of equal counts the lowest ids.

    >>> dominant([5, 9, 5, 2], 2)
    array([0, 1])
    """
    n = _count("count", count)
    keep = single.n_groups(n_groups, len(n))
    return np.sort(np.argsort(-n, kind="stable")[:keep])


def _count(name: str, count: Any) -> np.ndarray:
    n = np.asarray(count, dtype=np.float64)
    if n.ndim != 1:
        raise ConfigError(f"{name} must be one number for each expert, got shape {n.shape}")
    if not np.isfinite(n).all():
        raise NonFiniteError(f"{name} must be finite, got {n.tolist()}")
    return n
