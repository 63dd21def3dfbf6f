"""F0, the ground floor: array namespace, precision, random keys, parameter trees, errors.

Nothing here knows what a Mixture-of-Experts is, and nothing here imports another floor.
"""

from pymoe.backend import errors, rng, tree
from pymoe.backend.namespace import device, erf, is_cupy, is_numpy, namespace, to_numpy, tolist
from pymoe.backend.precision import accumulator, is_complex, is_floating, real, unit_roundoff

__all__ = [
    "accumulator",
    "device",
    "erf",
    "errors",
    "is_complex",
    "is_cupy",
    "is_floating",
    "is_numpy",
    "namespace",
    "real",
    "rng",
    "to_numpy",
    "tolist",
    "tree",
    "unit_roundoff",
]
