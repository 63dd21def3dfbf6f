"""Is the backward you wrote by hand right?  A check to 1e-13, and what it says when one sign is wrong."""

import types
from typing import NamedTuple

import numpy as np

from pymoe import verify
from pymoe.backend.errors import GradientError


class Cache(NamedTuple):
    x: np.ndarray  # (T, D)
    scale: np.ndarray  # (D,)
    r: np.ndarray  # (T, 1) 1 / length


def forward(x, scale):
    """y = scale ⊙ x / ‖x‖, row by row."""
    r = np.sum(x * x, axis=1, keepdims=True) ** -0.5  # no np.linalg.norm: it would lose the imaginary part
    return scale * x * r, Cache(x, scale, r)


def backward(dy, cache):
    """With n = x / ‖x‖ and dn = scale ⊙ dy:  dx = (dn - n ⟨n, dn⟩) / ‖x‖,  dscale = Σ_t dy ⊙ n."""
    x, scale, r = cache
    n, dn = x * r, scale * dy
    return (dn - n * np.sum(n * dn, axis=1, keepdims=True)) * r, {"scale": np.sum(dy * n, axis=0)}


def wrong(dy, cache):
    """The same with one sign turned round."""
    x, scale, r = cache
    n, dn = x * r, scale * dy
    return (dn + n * np.sum(n * dn, axis=1, keepdims=True)) * r, {"scale": np.sum(dy * n, axis=0)}


rng = np.random.default_rng(0)
x, scale = rng.standard_normal((4, 3)), rng.standard_normal(3)

report = verify.gradcheck(types.SimpleNamespace(forward=forward, backward=backward), x, scale, controls=True)
print(report)
print(f"\nthe measured error: {report.error:.1e}\n")

try:
    verify.gradcheck(types.SimpleNamespace(forward=forward, backward=wrong), x, scale)
except GradientError as error:
    print("with one sign wrong:")
    print(error)
else:
    raise SystemExit("the wrong gradient was not seen")
