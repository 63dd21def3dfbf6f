r"""How parameters start, and what a config may hold.

Matrices are drawn from N(0, std²) with std = 0.02 unless the config says otherwise, the usual choice since GPT-2;
biases start at 0 and norm weights at 1.  A matrix whose output is added to the residual stream (``o_proj``,
``down_proj``) starts smaller, std / √n for n such additions in the model (n = 2L for L blocks), so that the variance
of the stream does not grow with depth (GPT-2, Radford et al. 2019, section 2.3).

Draws are made in float64 and rounded once: a float32 and a float64 model of one seed have the same parameters, to
rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, check_integer

DTYPES = "fc"  # real floating, and complex for whoever differentiates by complex step


def check_dtype(dtype: Any) -> Any:
    """The NumPy dtype of the parameters; anything but floating point is a ConfigError."""
    dtype = np.dtype(dtype)
    if dtype.kind not in DTYPES:
        raise ConfigError(f"parameters must be floating point, got dtype {dtype}: use numpy.float32 or numpy.float64")
    return dtype


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: Any) -> np.ndarray:
    """A matrix of N(0, std²).

    >>> normal(np.random.default_rng(0), (2, 3), 0.02, np.float32).dtype
    dtype('float32')
    """
    return (rng.standard_normal(shape) * std).astype(check_dtype(dtype))


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A bias at its start."""
    return np.zeros(shape, check_dtype(dtype))


def ones(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The weight of a norm at its start."""
    return np.ones(shape, check_dtype(dtype))


def check_sizes(where: str, **sizes: int) -> None:
    """Every size is an integer of at least 1.

    >>> check_sizes("LinearConfig", d_in=3, d_out=0)
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: LinearConfig.d_out must be an integer of at least 1, got 0
    """
    for name, n in sizes.items():
        check_integer(f"{where}.{name}", n)


def check_std(where: str, **stds: float | None) -> None:
    """Every standard deviation is a finite number of at least 0 (or None: left to the default)."""
    for name, std in stds.items():
        if std is not None and not (0 <= std < float("inf")):
            raise ConfigError(f"{where}.{name} must be a finite number of at least 0, got {std!r}")


def check_one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    """``value`` is one of the names that exist."""
    if value not in allowed:
        raise ConfigError(f"{where} must be one of {', '.join(allowed)}; got {value!r}")
