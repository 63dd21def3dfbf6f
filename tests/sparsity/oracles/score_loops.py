"""What a weight is worth, one weight at a time, and Wanda's norms from one routed token at a time.

magnitude |w|; SNIP |w dL/dw| (1810.02340 eq. 6, before its normalisation); Taylor (w dL/dw)² (1906.10771 eq. 8);
movement -w dL/dw (2005.07683 eq. 4, one step); Wanda |w_ij| ‖x_j‖₂ (2306.11695 eq. 1).
"""

from __future__ import annotations

import math

import numpy as np

from .mask_loops import places


def of_each(rule, *arrays) -> np.ndarray:
    out = np.empty(arrays[0].shape, dtype=arrays[0].dtype)
    for i in places(out.shape):
        out[i] = rule(*(a[i].item() for a in arrays))
    return out


def magnitude(w):
    return of_each(abs, w)


def snip(w, dw):
    return of_each(lambda a, g: abs(a * g), w, dw)


def taylor(w, dw):
    return of_each(lambda a, g: (a * g) * (a * g), w, dw)


def movement(w, dw):
    return of_each(lambda a, g: -(a * g), w, dw)


def wanda(w, sumsq):
    """|w_fj| √(Σ_t x_tj²), with the sums of w's own expert where w has an expert axis."""
    out = np.empty(w.shape, dtype=w.dtype)
    for i in places(w.shape):
        norm = math.sqrt(sumsq[(i[0], i[-1])].item() if sumsq.ndim == 2 else sumsq[i[-1]].item())
        out[i] = abs(w[i].item()) * norm
    return out


def routed_sumsq(x, chosen: list[list[int]], n_experts: int) -> np.ndarray:
    """Σ x_tj² over the tokens that an expert takes; chosen[t] are the experts of token t."""
    total = [[0.0] * x.shape[1] for _ in range(n_experts)]
    for t, row in enumerate(chosen):
        for e in row:
            for j in range(x.shape[1]):
                total[e][j] += x[t, j].item() ** 2
    return np.array(total)
