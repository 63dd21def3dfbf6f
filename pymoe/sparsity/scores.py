r"""Scores: how much is each single weight worth keeping?  Larger = more; ``masks`` turns a score into a mask.

============= ==================================== ===================================================================
score         formula                              source
============= ==================================== ===================================================================
magnitude     \|w\|                                 Han et al., arXiv:1506.02626
snip          \|w g\|                               Lee et al., arXiv:1810.02340, section 4
taylor        (w g)²                               Molchanov et al., arXiv:1906.10771, section 3
movement      -w g, summed over steps of training  Sanh et al., arXiv:2005.07683, section 4
wanda         \|w\| (Σ_t x_tj²)^½                   Sun et al., arXiv:2306.11695, eq. 1
============= ==================================== ===================================================================

g = dL/dw.  The normaliser of SNIP, the sum over all weights, changes no order.  All are elementwise, O(N), look at
real parts, and return what they allocate.  NaN is a NonFiniteError that says where, integers are a DtypeError.
"""

from __future__ import annotations

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs

UNROUTED = ("tie", "magnitude")


def magnitude(w: Array) -> Array:
    """|w|, like w.

    >>> import numpy as np
    >>> magnitude(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    return namespace(w).abs(inputs.ranked("w", w))


def snip(w: Array, dw: Array) -> Array:
    """|w dw|: by how much the loss changes, to first order, when w goes.

    >>> import numpy as np
    >>> snip(np.array([-2.0, 1.0]), np.array([3.0, 0.5]))
    array([6. , 0.5])
    """
    return namespace(w, dw).abs(_product(w, dw))


def taylor(w: Array, dw: Array) -> Array:
    """(w dw)²: the square of that change.  The order is ``snip``'s until sums or means over batches are taken.

    >>> import numpy as np
    >>> taylor(np.array([-2.0, 1.0]), np.array([3.0, 0.5]))
    array([36.  ,  0.25])
    """
    product = _product(w, dw)
    return product * product


def movement(w: Array, dw: Array) -> Array:
    """-w dw, of either sign: positive where descent moves w away from 0.  Sum it over the steps, then mask.

    >>> import numpy as np
    >>> movement(np.array([-2.0, 1.0]), np.array([3.0, 0.5]))
    array([ 6. , -0.5])
    """
    return -_product(w, dw)


def wanda(w: Array, sumsq: Array, *, unrouted: str = "tie") -> Array:
    """|w_ij| √sumsq_j: w (F, D) with sumsq (D,), or w (E, F, D) with sumsq (E, D), Σ x_tj² over each expert's tokens.

    The paper compares within an output row: ``masks.by_score(score, s, by="row")``.  Its code divides sumsq by the
    number of sequences, which changes no order.  An expert that no token reached has sumsq 0, so all its scores are 0:

    - unrouted="tie" leaves it so, and the tie rule decides: each row loses its *first* ⌊s D⌋ columns;
    - unrouted="magnitude" gives |w| to each matrix whose sumsq is all 0.  Only for pools within one matrix (by "row"
      or "matrix", or N:M): |w| is not comparable with the scores of another expert.

    The result has the wider of the two precisions.  ConfigError for a negative sumsq.

    >>> import numpy as np
    >>> w = np.array([[[1.0, -2.0]], [[3.0, -1.0]]])
    >>> wanda(w, np.array([[9.0, 1.0], [0.0, 0.0]])).tolist()
    [[[3.0, 2.0]], [[0.0, 0.0]]]
    >>> wanda(w, np.array([[9.0, 1.0], [0.0, 0.0]]), unrouted="magnitude").tolist()
    [[[3.0, 2.0]], [[3.0, 1.0]]]
    """
    if unrouted not in UNROUTED:
        raise ConfigError(f"unrouted must be one of {UNROUTED}, got {unrouted!r}")
    xp = namespace(w, sumsq)
    inputs.matrices("w", w)
    size, squares = xp.abs(inputs.ranked("w", w)), inputs.ranked("sumsq", sumsq)
    expected = (*w.shape[:-2], w.shape[-1])
    if tuple(sumsq.shape) != tuple(expected):
        raise ShapeError(
            f"sumsq must have shape {tuple(expected)}, one sum of squares for each input of each matrix of w "
            f"{tuple(w.shape)}, got {tuple(sumsq.shape)}"
        )
    if bool(xp.any(squares < 0)):
        raise ConfigError("sumsq must hold sums of squares; an entry is negative")
    scaler = xp.sqrt(squares)
    if unrouted == "magnitude":
        reached = xp.any(squares > 0, axis=-1, keepdims=True)
        scaler = xp.where(reached, scaler, xp.ones_like(scaler))
    return size * scaler[..., None, :]


def _product(w: Array, dw: Array) -> Array:
    check_shape("dw", dw, tuple(w.shape))
    product = inputs.ranked("w", w) * inputs.ranked("dw", dw)
    if bool(namespace(product).any(namespace(product).isnan(product))):
        raise NonFiniteError("w dw is NaN: one is 0 where the other is infinite; find the step that overflowed")
    return product
