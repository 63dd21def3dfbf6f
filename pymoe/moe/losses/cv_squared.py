r"""CV²: the squared coefficient of variation of what each expert gets; 0 when all get the same.

Forward, I (E,) importance or load::

    m = mean(I)      V = Σ (I - m)² / (E - ddof)      L = V / (m² + ε)

Backward::

    dI_e = dL [ 2 (I_e - m) / ((E - ddof)(m² + ε)) - 2 V m / (E (m² + ε)²) ]

As V/m², not (std/mean)²: the root has no derivative at perfect balance.  The paper has ddof = 0, ε = 0; many ports
ddof = 1, ε = 1e-10.  Source: arXiv:1701.06538, eq. 7 and 11.  Cost: O(E).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace, real
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    i: Array  # (E,)
    m: Array  # ()
    v: Array  # ()
    n: Array  # () m² + ε, or inf where that is 0
    ddof: int


def forward(i: Array, *, ddof: int = 0, eps: float = 0.0) -> tuple[Array, Cache]:
    """L (0-d) from I (E,).

    >>> import numpy as np
    >>> float(forward(np.array([1.0, 3.0]))[0])
    0.25
    """
    xp = namespace(i)
    experts = int(i.shape[0])
    m = xp.mean(i) if not xp.isdtype(i.dtype, "complex floating") else xp.sum(i) / experts
    v = xp.sum((i - m) * (i - m)) / (experts - ddof)
    n = m * m + eps
    n = xp.where(real(n) == 0, xp.full_like(n, xp.inf), n)  # nothing was routed: the loss is 0
    return v / n, Cache(i, m, v, n, ddof)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dI (E,); its inner product with I is 0 when ε = 0, for L does not change with the scale of I.

    >>> import numpy as np
    >>> _, cache = forward(np.array([1.0, 3.0]))
    >>> backward(np.ones(()), cache)[0]
    array([-0.375,  0.125])
    """
    i, m, v, n, ddof = cache
    experts = int(i.shape[0])
    return dloss * (2 * (i - m) / ((experts - ddof) * n) - 2 * v * m / (experts * n * n)), {}
