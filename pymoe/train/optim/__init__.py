"""Optimisers as maps over two equal trees, parameters p and gradients dp.

Each is a module with ``init(p) -> state`` and ``update(p, dp, state, *, lr, step, ...) -> (p, state)``, pure: new
trees, nothing written into the old ones.  ``state`` is a dict of trees like p, so a checkpoint stores it the same way.
"""

from types import ModuleType

from pymoe.train.optim import adam, adamw, sgd
from pymoe.train.optim.common import is_matrix

OPTIMIZERS: dict[str, ModuleType] = {"sgd": sgd, "adam": adam, "adamw": adamw}

__all__ = ["OPTIMIZERS", "adam", "adamw", "is_matrix", "sgd"]
