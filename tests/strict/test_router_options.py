"""Every setting of the router, the shards and the pooled loss under array-api-strict, on a device not NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe.moe import Form, router, shards
from pymoe.moe.losses import pooled
from pymoe.moe.selection_bias import add, none, update

from ..moe.router_frames import Frame
from ..moe.test_router_options import COMBINATIONS, FAST
from .subjects import Subject, convert
from .test_strict import check, standard_2024  # noqa: F401 - the flags of the standard, for every test here


@pytest.mark.parametrize("name", FAST)
def test_every_setting_of_the_router(name: str) -> None:
    cfg, given = COMBINATIONS[name]
    f = Frame(cfg, **given)

    def run(to: Any) -> Any:
        x, p, mask, draws, told = convert((f.x, f.p, f.mask, f.draws, f.given), to)
        (r, losses), cache = router.forward(x, p, cfg, mask, draws, told)
        rng = np.random.default_rng(0)
        dg, dlogits = (convert(rng.standard_normal(a.shape), to) for a in (r.weight, r.logits))
        shared = None if r.shared_weight is None else convert(rng.standard_normal(r.shared_weight.shape), to)
        dlosses = {loss: 0.5 + i for i, loss in enumerate(losses)}
        return r, losses, router.backward(dg, dlosses, cache, dlogits=dlogits, dshared=shared)

    check(Subject(name, run), "device1")


def test_shards_pooled_losses_and_the_counts_of_a_step() -> None:
    rng = np.random.default_rng(0)
    x, g, dy = rng.standard_normal((5, 3)), rng.random((5, 2)), rng.standard_normal((5, 3))
    idx = np.array([rng.permutation(4)[:2] for _ in range(5)])
    p = {"up_proj": rng.standard_normal((4, 6, 3)), "down_proj": rng.standard_normal((4, 3, 6))}
    z, mask, bias, n = rng.standard_normal((2, 5, 4)), np.arange(5) != 2, rng.standard_normal(4), np.array([3, 0, 9, 1])

    def run(to: Any) -> Any:
        a = convert({"x": x, "g": g, "idx": idx, "p": p, "dy": dy, "z": z, "mask": mask, "bias": bias, "n": n}, to)
        y, cache = shards.forward(a["x"], a["g"], a["idx"], None, a["p"], workers=3, form=Form("gelu", False))
        loss, own = pooled.forward(a["z"], 2, a["mask"])
        counts = add(none(a["bias"]), a["n"], micro_batch="first")
        return (
            y,
            shards.backward(a["dy"], cache),
            loss,
            pooled.backward(loss, own),
            update(a["bias"], counts, 0.5, centre=True),
        )

    check(Subject("shards and losses", run), "device1")
