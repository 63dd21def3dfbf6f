r"""The frequencies of rotary positions beyond the context a model was trained on, and the amplitude with them.

With θ_i = base^{-2i/d}, i = 0..d/2-1, wave lengths λ_i = 2π / θ_i and the trained context n:

``Linear``: positions divided by a factor::

    θ'_i = θ_i / factor

``Yarn``: long waves are stretched, short ones stay, with a ramp between the channels that turn beta_fast and beta_slow
times within the trained context, and attention gets an amplitude::

    c(r) = d ln(n / 2πr) / (2 ln base)            the channel that turns r times
    ρ_i  = clip((i - c(beta_fast)) / (c(beta_slow) - c(beta_fast)), 0, 1)          c rounded outwards if ``truncate``
    θ'_i = θ_i (1 - ρ_i) + θ_i / factor · ρ_i,    amplitude = 0.1 ln factor + 1 unless given

``Llama3``: the same with a ramp over wave lengths::

    σ_i  = clip((n / λ_i - low) / (high - low), 0, 1)
    θ'_i = θ_i σ_i + θ_i / factor · (1 - σ_i)

All are constants: no gradient.  ``ops.rope`` takes the numbers.  Sources: Chen et al., arXiv:2306.15595; Peng et al.,
YaRN, arXiv:2309.00071; Grattafiori et al., Llama 3, arXiv:2407.21783; the roundings as in the published checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pymoe.backend.errors import ConfigError
from pymoe.nn import initial


@dataclass(frozen=True)
class Linear:
    """θ' = θ / factor."""

    factor: float
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        _positive("Linear", factor=self.factor, amplitude=self.amplitude)

    def stretched(self, theta: tuple[float, ...], base: float) -> tuple[float, ...]:
        """θ'."""
        return tuple(t / self.factor for t in theta)


@dataclass(frozen=True)
class Yarn:
    """factor, original: how far, and from which trained context; the rest as in the module's formulas.

    >>> Yarn(4.0, 32).amplitude
    1.138629436111989
    """

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    amplitude: float | None = None

    def __post_init__(self) -> None:
        initial.check_sizes("Yarn", original=self.original)
        if self.amplitude is None:
            object.__setattr__(self, "amplitude", 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0)
        given = {"factor": self.factor, "beta_fast": self.beta_fast, "beta_slow": self.beta_slow}
        _positive("Yarn", **given, amplitude=self.amplitude)

    def stretched(self, theta: tuple[float, ...], base: float) -> tuple[float, ...]:
        """θ'."""
        d = 2 * len(theta)

        def channel(turns: float) -> float:
            return d * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        width = high - low if high != low else 0.001
        ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(len(theta))]
        return tuple(t * (1 - r) + t / self.factor * r for t, r in zip(theta, ramp, strict=True))


@dataclass(frozen=True)
class Llama3:
    """factor, original as for ``Yarn``; low, high: how often a wave fits into the trained context at both ends."""

    factor: float
    original: int
    low: float = 1.0
    high: float = 4.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        initial.check_sizes("Llama3", original=self.original)
        _positive("Llama3", factor=self.factor, low=self.low, high=self.high, amplitude=self.amplitude)
        if not self.high > self.low:
            raise ConfigError(f"Llama3.high must be above low, got {self.high} and {self.low}")

    def stretched(self, theta: tuple[float, ...], base: float) -> tuple[float, ...]:
        """θ'."""
        fits = [self.original * t / (2 * math.pi) for t in theta]
        smooth = [min(max((n - self.low) / (self.high - self.low), 0.0), 1.0) for n in fits]
        return tuple(t * s + t / self.factor * (1 - s) for t, s in zip(theta, smooth, strict=True))


Stretch = Linear | Yarn | Llama3
STRETCHES = (Linear, Yarn, Llama3)


def frequencies(d: int, base: float, stretch: Stretch | None) -> tuple[float, ...]:
    """θ (d/2) of a head of width d.

    >>> frequencies(4, 100.0, None), frequencies(4, 100.0, Linear(2.0))
    ((1.0, 0.1), (0.5, 0.05))
    """
    theta = tuple(base ** (-2 * i / d) for i in range(d // 2))
    return theta if stretch is None else stretch.stretched(theta, base)


def amplitude(stretch: Stretch | None) -> float:
    """The factor on cos and sin."""
    return 1.0 if stretch is None or stretch.amplitude is None else float(stretch.amplitude)


def _positive(where: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is None or not 0 < value < float("inf"):
            raise ConfigError(f"{where}.{name} must be a finite number above 0, got {value!r}")
