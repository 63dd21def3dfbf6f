"""What one row of the page says, and when it passes."""

from __future__ import annotations

from typing import NamedTuple

LOOP = 1e-13  # of a tensor's maximum: an independent loop, its own order of the sums
GRADIENT = 1e-13  # of a tensor's maximum: the complex step
ORACLE = 1e-12  # of a tensor's maximum: transformers in float64, its own order of the sums


class Measured(NamedTuple):
    """A routing rule."""

    name: str
    kind: str  # "preset" | "layer"
    source: str
    forward: float  # largest error against the loop
    gradient: float  # largest error of any gradient against the complex step
    loop: str  # where the loop stands
    oracle: str  # another implementation that gives the same numbers; "" for none

    @property
    def passes(self) -> bool:
        return self.forward <= LOOP and self.gradient <= GRADIENT


class Block(NamedTuple):
    """A block of a published model."""

    name: str
    family: str
    sizes: str  # E, k and so on of the measured configuration
    forward: float  # largest error of output, logits, weights
    gradient: float  # largest error of the gradient of the input and of every parameter
    tensors: int  # gradients compared
    loss: float | None  # error of the model's own auxiliary loss and its gradient; None: it has none

    @property
    def passes(self) -> bool:
        return max(self.forward, self.gradient, self.loss or 0.0) <= ORACLE


class Defect(NamedTuple):
    """Something wrong in another implementation, and ten lines that show it."""

    where: str
    what: str
    shows: str  # code that prints the evidence
    prints: str  # what it printed, with the versions named in ``where``
