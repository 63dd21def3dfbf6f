"""What must hold before any number is compared: keys, shapes, dtypes, and that nobody writes where it should not."""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import GradientError
from pymoe.verify import cotangents, walk
from pymoe.verify.subjects import Evaluation, Subject

Flat = dict[str, np.ndarray]


def check(s: Subject, seed: int = 0) -> tuple[Evaluation, Flat, Flat]:
    """Run forward and backward twice: equal bits, unchanged inputs and caches.

    Returns (evaluation, cotangents, gradients).

    Keys, shapes and dtypes of the gradients are checked by ``Subject.backward`` itself, here and everywhere.
    """
    values = s.values
    arguments = walk.snapshot((s.args, dict(s.static)))
    at, again = s.forward(values), s.forward(values)
    for name, y in at.outputs.items():
        if not walk.same_bits(y, again.outputs[name]):
            raise GradientError(f"{s.name}: forward called twice gives different bits in {name!r}: hidden state")
    walk.freeze(at.cache)
    cached = walk.snapshot(at.cache)
    given = cotangents.one(np.random.default_rng(seed), at.outputs)
    ct_before = walk.snapshot(given)
    first, second = s.backward(given, at.cache), s.backward(given, at.cache)
    for name, g in first.items():
        if not walk.same_bits(g, second[name]):
            raise GradientError(f"{s.name}: backward called twice gives different bits in the gradient of {name!r}")
    for what, before in (("an argument", arguments), ("the cache", cached), ("the cotangent", ct_before)):
        path = walk.changed(before)
        if path is not None:
            raise GradientError(f"{s.name}: {what} was written into, at {path}: only write what you allocated")
    return at, given, first


def dtypes(s: Subject) -> None:
    """Outputs (not losses) and gradients have the dtype of the inputs, and so in float32: no creep to float64."""
    dtype = next(iter(s.values.values())).dtype
    with np.errstate(all="ignore"):
        at, _, _ = check(s)
    for name, y in at.outputs.items():
        if not name.startswith("losses.") and y.ndim and y.dtype != dtype:
            raise GradientError(f"{s.name}: output {name!r} is {y.dtype} for {dtype} inputs")
