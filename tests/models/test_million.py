"""The gradient of a model of a million parameters, all losses, dropout and padding: directional complex step."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend.errors import GradientError
from pymoe.models import LMConfig, count_parameters, lm

from .cases import frozen

pytestmark = pytest.mark.slow


def test_a_million_parameters():
    moe = presets.mixtral(d_model=72, d_ff=88, n_experts=11, k=3, d_shared=40)
    cfg = LMConfig(vocab=97, d_model=72, n_layers=5, n_heads=6, n_kv_heads=2, d_ff=180, context=40, moe=moe,
                   moe_layers=(1, 2, 3, 4), dropout=0.1, std=0.1)  # fmt: skip
    p = lm.init(np.random.default_rng(0), cfg, np.float64)
    assert 0.7e6 < count_parameters(cfg, p).total < 1.3e6
    rng = np.random.default_rng(1)
    ids, targets = frozen(rng.integers(0, 97, (3, 31))), frozen(rng.integers(0, 97, (3, 31)))
    mask = np.ones(ids.shape, bool)
    mask[1, 20:] = False
    draws = lm.draw(rng, cfg, 3, 31)
    keywords = {"targets": targets, "mask": frozen(mask), "draws": draws}
    report = verify.gradcheck(lm, ids, p, cfg, mode="directional", **keywords)
    assert report.error < 1e-13 and report.zeros == ()

    class Broken:  # the control: one entry of one expert's matrix wrong by 0.1 %
        forward = staticmethod(lm.forward)

        @staticmethod
        def backward(dlogits, cache, dlosses=None):
            dx, dp = lm.backward(dlogits, cache, dlosses)
            experts = dp["layers"]["3"]["mlp"]["experts"]
            wrong = experts["down_proj"].copy()
            wrong.reshape(-1)[np.argmax(np.abs(wrong))] *= 1.001
            layer = {
                **dp["layers"]["3"],
                "mlp": {**dp["layers"]["3"]["mlp"], "experts": {**experts, "down_proj": wrong}},
            }
            return dx, {**dp, "layers": {**dp["layers"], "3": layer}}

    with pytest.raises(GradientError, match="layers.3.mlp.experts.down_proj"):
        verify.gradcheck(Broken, ids, p, cfg, mode="directional", **keywords)
