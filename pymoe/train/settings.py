"""How a model is trained: one frozen value, stored in every checkpoint, so that a resumed run cannot use another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.train import schedule
from pymoe.train.optim import OPTIMIZERS


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """What every training is told, whatever it learns from.

    steps                   optimiser steps
    optimizer, lr, ...      learning rate: linear warm-up, then a cosine to ``floor``; norm clipped to ``clip`` (0: not)
    balance, z, importance, load   coefficients of the MoE layers' losses, where the model has them
    bias_rate               step of the loss-free bias update, where a router has a selection bias
    eval_every              held-out loss every so many steps
    save_every, save_seconds   a checkpoint after so many steps (0: never by steps) and at least every so many seconds
    log_load_every          the load of the experts is recorded every so many steps
    dtype                   float32 or float64
    """

    steps: int
    optimizer: str = "adamw"
    lr: float = 1e-3
    floor: float = 1e-4
    warmup: int = 100
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    decay: float = 0.1
    clip: float = 1.0
    balance: float = 0.01
    z: float = 0.001
    importance: float = 0.0
    load: float = 0.0
    bias_rate: float = 0.001
    eval_every: int = 200
    save_every: int = 0
    save_seconds: float = 20.0
    log_load_every: int = 10
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in self._counts():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
        for name in ("lr", "floor", "warmup", "decay", "clip", *self._amounts(), "save_every", "save_seconds", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be a finite number and not negative, got {getattr(self, name)!r}")
        self._check()
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer must be one of {sorted(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype must be float32 or float64, got {self.dtype!r}")
        self.rate(0)

    def _counts(self) -> tuple[str, ...]:
        """The fields that are positive integers."""
        return ("steps", "eval_every", "log_load_every")

    def _amounts(self) -> tuple[str, ...]:
        """The fields of a subclass that are numbers of at least 0."""
        return ()

    def _check(self) -> None:
        """What a subclass has to check besides."""

    @property
    def numpy_dtype(self) -> Any:
        return np.dtype(self.dtype)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The coefficients of the auxiliary losses that are not zero."""
        names = ("balance", "z", "importance", "load")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def rate(self, step: int) -> float:
        """The learning rate of update ``step`` (from 0)."""
        return schedule.warmup_cosine(step, lr=self.lr, floor=self.floor, warmup=self.warmup, steps=self.steps)

    def update(self, p: Any, dp: Any, slots: Any, step: int) -> tuple[Any, Any]:
        """One step of the chosen optimiser; ``step`` from 0."""
        common = {"lr": self.rate(step), "step": step + 1, "decay": self.decay}
        if self.optimizer == "sgd":
            own: dict[str, Any] = {"momentum": self.momentum}
        else:
            own = {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}
        return OPTIMIZERS[self.optimizer].update(p, dp, slots, **common, **own)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class TrainSettings(UpdateSettings):
    """Everything but the model, the data and the place.

    rows, window            windows a step; tokens a window
    micro_batches           the rows of a step are taken in that many equal parts and their gradients averaged
    eval_windows            held-out loss on so many fixed windows

    and all of ``UpdateSettings``.
    """

    rows: int
    window: int
    micro_batches: int = 1
    eval_windows: int = 64

    def _counts(self) -> tuple[str, ...]:
        return ("steps", "rows", "window", "micro_batches", "eval_every", "log_load_every")

    def _amounts(self) -> tuple[str, ...]:
        return ("eval_windows",)

    def _check(self) -> None:
        if self.rows % self.micro_batches:
            raise ConfigError(
                "micro_batches must divide rows, the windows of a step, into equal parts: "
                f"got {self.micro_batches} and {self.rows}"
            )

    @property
    def tokens(self) -> int:
        """Tokens the whole training reads."""
        return self.steps * self.rows * self.window
