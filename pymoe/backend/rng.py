"""Random generators by explicit key: the draw of (seed, step, layer) never depends on what was drawn before.

``Generator.spawn`` cannot be restored from ``bit_generator.state`` alone, so pymoe never spawns: a resumed run asks
for the key of its step and gets the same bits.

>>> generator(0, 3).random() == generator(0, 3).random(), generator(0, 3).random() == generator(0, 4).random()
(True, False)
"""

from __future__ import annotations

import numpy as np


def generator(seed: int, *keys: int) -> np.random.Generator:
    """A PCG64 generator for the key (seed, *keys)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *keys])))
