"""Learned noise of noisy top-k."""

from __future__ import annotations

import numpy as np

from pymoe import verify
from pymoe.moe import noise

from .frames import U64

RNG = np.random.default_rng(0)
C, A, EPSILON = (RNG.standard_normal((7, 6)) for _ in range(3))


class Sliced:
    """``epsilon`` is a draw, a constant: only c and a are differentiated."""

    __name__ = "noise"

    @staticmethod
    def forward(c: np.ndarray, a: np.ndarray) -> tuple:
        return noise.forward(c, a, EPSILON.astype(np.real(c).dtype))

    backward = staticmethod(noise.backward)


def test_value_and_floor() -> None:
    h, cache = noise.forward(C, A, EPSILON)
    assert np.allclose(h, C + EPSILON * (np.log1p(np.exp(A)) + 0.01), rtol=8 * U64, atol=8 * U64)
    assert noise.forward(C, A - 800.0, EPSILON)[1].sigma.min() == 0.01 == noise.FLOOR


def test_gradcheck_with_controls() -> None:
    assert verify.gradcheck(Sliced, C, A, controls=True).error <= 1e-13


def test_what_the_load_loss_adds_to_dsigma() -> None:
    dh, dsigma = RNG.standard_normal((2, 7, 6))
    _, cache = noise.forward(C, A, EPSILON)
    both, only = noise.backward(dh, cache, dsigma)[1]["a"], noise.backward(dh, cache)[1]["a"]
    assert np.allclose(both - only, dsigma / (1 + np.exp(-A)), rtol=0, atol=8 * U64 * np.abs(both).max())
