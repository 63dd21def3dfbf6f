"""F4: the sparse Mixture-of-Experts layer.  ``init``, ``forward``, ``backward``, ``draw`` are what users call.

>>> import numpy as np, pymoe
>>> cfg = pymoe.presets.deepseek_v3(d_model=8, d_ff=6, n_experts=4, k=2, n_group=2, topk_group=1)
>>> p = pymoe.moe.init(np.random.default_rng(0), cfg)
>>> out, cache = pymoe.moe.forward(np.ones((3, 8)), p, cfg)
>>> dx, dp = pymoe.moe.backward(np.ones((3, 8)), cache)
"""

from pymoe.moe import hidden, stored
from pymoe.moe.config import MoEConfig
from pymoe.moe.draws import Draws, draw
from pymoe.moe.form import Form, Norm
from pymoe.moe.given import Given
from pymoe.moe.layer import Cache, Output, backward, forward
from pymoe.moe.parameters import init
from pymoe.moe.router import Routing
from pymoe.moe.router_config import Capacity, RouterConfig
from pymoe.moe.selection_bias import update as bias_update

__all__ = [
    "Cache",
    "Capacity",
    "Draws",
    "Form",
    "Given",
    "MoEConfig",
    "Norm",
    "Output",
    "RouterConfig",
    "Routing",
    "backward",
    "bias_update",
    "draw",
    "forward",
    "hidden",
    "init",
    "stored",
]
