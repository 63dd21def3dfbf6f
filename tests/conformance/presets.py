"""A preset by the loops of router and experts, and by the complex step of router and layer."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np

from pymoe import moe, verify
from pymoe.moe.config import MoEConfig
from pymoe.moe.given import Given
from pymoe.verify.explain import Entry
from tests.moe import frames, router_frames, test_forms_oracle, test_router_options
from tests.moe.select import test_quantile, test_sinkhorn

D, F, E, T = 5, 4, 6, 3  # pairwise different, and none of them k
LOOPS = "tests/oracles/router_loops.py, form_loops.py"


def small(entry: Entry) -> MoEConfig:
    """The preset with six experts; three groups where it has groups."""
    accepted = inspect.signature(entry.target).parameters
    k = accepted["k"].default if "k" in accepted else 2
    sizes: dict[str, Any] = {"n_experts": E, "k": min(k, 2) if isinstance(k, int) else 2}
    sizes = {n: v for n, v in sizes.items() if n in accepted}
    cfg = entry.target(D, F, **sizes)
    if cfg.router.select == "group_limited":
        cfg = entry.target(D, F, **sizes, n_group=3, topk_group=2)
    return cfg


def preset(entry: Entry) -> tuple[float, float, str]:
    """(largest error against the loops, of the gradients, where the loops stand)."""
    cfg = small(entry)
    router = router_frames.Frame(cfg.router, mask=True)
    forward = list(test_router_options.compare(router).values()) if cfg.router.select not in PRICES else _priced(cfg)
    gradient = verify.gradcheck(router.subject, router.x, router.p, mode="gradient", controls=True).error
    frame, given = _frame(cfg)
    # the experts are the same whatever chose them: where the choice comes from outside, let top-k make it
    free = cfg
    if cfg.router.select in ("table", "given", *PRICES):
        free = dataclasses.replace(
            cfg, router=dataclasses.replace(cfg.router, select="topk", select_on="scores", table_size=0)
        )
    forward += test_forms_oracle.errors(frames.make(free, T, mask=True)).values()
    report = verify.gradcheck(
        moe, frame.x, frame.p, cfg, mask=frame.mask, draws=frame.draws, given=given, controls=True
    )
    return max(forward), max(gradient, report.error), LOOPS


# price of each expert, subtracted from what is compared
PRICES = {
    "sinkhorn": lambda z, k: -np.array(test_sinkhorn.loop(z.tolist(), 400)),
    "quantile": lambda s, k: np.array(test_quantile.loop(s.tolist(), [0.0] * s.shape[1], k)),
}


def _priced(cfg: MoEConfig) -> list[float]:
    """A choice by prices of the batch: the prices by their own loop, the rest by the router's with that choice."""
    f = router_frames.Frame(cfg.router)
    z = f.x @ f.p["weight"].T
    compared = z if cfg.router.select_on == "logits" else 1 / (1 + np.exp(-z))
    idx = np.argsort(-(compared - PRICES[cfg.router.select](compared, cfg.k)), axis=1, kind="stable")[:, : cfg.k]
    f.given = f.given._replace(idx=idx)
    return list(test_router_options.compare(f, dataclasses.asdict(cfg.router) | {"select": "given"}).values())


def _frame(cfg: MoEConfig) -> tuple[frames.Frame, Given]:
    frame = frames.make(cfg, 7, mask=True)
    rng = np.random.default_rng(4)
    given = Given()
    if cfg.router.select == "table":
        given = Given(token_ids=rng.integers(0, cfg.router.table_size, 7))
    elif cfg.router.select == "given":
        given = Given(idx=rng.integers(0, cfg.n_experts, (7, cfg.k)))
    return frame, given
