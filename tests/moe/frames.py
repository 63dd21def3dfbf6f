"""Frames: settings, tokens, parameters, padding, draws and cotangents of pairwise different sizes, all read-only."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.moe import Capacity, Draws, Given, MoEConfig, RouterConfig

U32, U64 = 2.0**-24, 2.0**-53
T, D, F, E, K = 7, 3, 4, 6, 2  # S = 14, 2F = 8


LAYER = {f.name for f in dataclasses.fields(MoEConfig)} - {"d_model", "d_ff", "router"}


class Frame(NamedTuple):
    cfg: MoEConfig
    x: np.ndarray
    p: dict[str, Any]
    mask: np.ndarray | None
    draws: Draws
    dy: np.ndarray
    dlosses: dict[str, float]
    given: Given | None = None

    def forward(self, **other: Any) -> Any:
        f = self._replace(**other)
        return moe.forward(f.x, f.p, f.cfg, mask=f.mask, draws=f.draws, given=f.given)

    def both(self, **other: Any) -> tuple[Any, np.ndarray, dict[str, np.ndarray]]:
        """(out, dx, flat gradients)."""
        f = self._replace(**other)
        out, cache = f.forward()
        dx, dp = moe.backward(f.dy, cache, f.dlosses)
        return out, dx, tree.flatten(dp)

    def astype(self, dtype: Any) -> Frame:
        def cast(a: np.ndarray) -> np.ndarray:
            return frozen(a.astype(dtype))

        return self._replace(x=cast(self.x), p=tree.map(cast, self.p), dy=cast(self.dy))


def frozen(a: np.ndarray) -> np.ndarray:
    a = np.array(a)
    a.setflags(write=False)
    return a


def config(*, d_model: int = D, d_ff: int = F, n_experts: int = E, k: int = K, **settings: Any) -> MoEConfig:
    """Settings of both, told apart by name; ``router_bias`` is the bias on the logits."""
    layer = {n: settings.pop(n) for n in LAYER if n in settings}
    if "router_bias" in settings:
        settings["bias"] = settings.pop("router_bias")
    return MoEConfig(d_model, d_ff, RouterConfig(n_experts, k, **settings), **layer)


def make(
    cfg: MoEConfig,
    tokens: int | tuple[int, int] = T,
    *,
    mask: Any = None,
    seed: int = 0,
    train: bool = True,
    spread: float = 1.0,
) -> Frame:
    """A frame of these settings; biases, noise weights and the selection bias are not zero."""
    rng = np.random.default_rng([seed, 77])
    lead = (tokens,) if isinstance(tokens, int) else tokens
    n = int(np.prod(lead))
    p = tree.map(
        lambda a: frozen(
            a if a.dtype.kind == "i" else rng.standard_normal(a.shape) * (spread / max(a.shape[-1], 1) ** 0.5)
        ),
        moe.init(rng, cfg),
    )
    draws = moe.draw(rng, cfg, n) if train else Draws()
    for a in draws:
        if a is not None:
            a.setflags(write=False)
    if mask is True:
        mask = rng.random(lead) < 0.7
        mask.reshape(-1)[: min(2, n)] = [True, False][: min(2, n)]
    return Frame(
        cfg,
        frozen(rng.standard_normal((*lead, cfg.d_model))),
        p,
        None if mask is None else frozen(np.asarray(mask, bool)),
        draws,
        frozen(rng.standard_normal((*lead, cfg.d_model))),
        {name: float(rng.uniform(0.5, 2.0)) for name in cfg.router.losses},
        Given(token_ids=frozen(np.arange(n) % cfg.router.table_size)) if cfg.router.table_size else None,
    )


def relative(found: Any, wanted: Any) -> float:
    """Largest difference over the largest entry wanted; where all wanted is zero the difference itself."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if not wanted.size:
        return 0.0
    gap, top = float(np.max(np.abs(found - wanted))), float(np.max(np.abs(wanted)))
    return gap / top if top else gap


def bits(*things: Any) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(a).tobytes() for a in things)


def everything(f: Frame, **other: Any) -> dict[str, np.ndarray]:
    """Every number the layer gives: y, losses, routing, dx and all gradients."""
    out, dx, dp = f.both(**other)
    r = out.routing
    found = {"y": out.y, "dx": dx, "idx": r.idx, "weight": r.weight, "load": r.load}
    found |= {} if r.kept is None else {"kept": r.kept}
    return found | {f"loss {n}": v for n, v in out.losses.items()} | dp


ALL = ("balance", "z", "importance", "load")
OPTIONS: dict[str, list[Any]] = {
    "score": ["softmax", "sigmoid"],
    "select": [
        {"select": "topk"},
        {"select": "group_limited", "n_group": 3, "topk_group": 2, "group_score": "top2"},
        {"select": "group_limited", "n_group": 2, "topk_group": 1, "group_score": "max"},
        {"select": "expert_choice"},
    ],
    "norm": [{"norm": "none"}, {"norm": "l1"}, {"norm": "l1", "eps": 0.125}],
    "scale": [1.0, -2.5],
    "router_bias": [False, True],
    "selection_bias": [False, True],
    "gated": [True, False],
    "activation": ["silu", "gelu", "relu_squared", "sigmoid"],
    "bias": [False, True],
    "d_shared": [0, 9],
    "losses": [ALL, ("balance", "z"), ()],
    "noise": ["none", "learned"],
    "jitter": [0.0, 0.25],
    "capacity": [None]
    + [
        Capacity(factor=0.9, order=order, renorm=renorm)
        for order in ("token", "choice", "score", "probability")
        for renorm in ("before", "after")
    ],
    "second_threshold": [None, 0.6],
    "skip": [None, 0.7],
    "tied": [None, (1, 0, 2, 1, 0, 1)],
    "balance_choices": ["all", "first"],
    "cv": [{}, {"cv_ddof": 1, "cv_eps": 1e-3}],
    "mask": [None, True],
    "train": [True, False],
}


@functools.cache
def combinations() -> dict[str, tuple[MoEConfig, dict[str, Any]]]:
    """The design of ``OPTIONS``, made once in a process."""
    return design(OPTIONS)


def design(
    options: dict[str, list[Any]], seed: int = 3, draws: int = 100, build: Any = None
) -> dict[str, tuple[Any, dict[str, Any]]]:
    """{name: (settings, keywords of ``make``)}: every pair of option values that may stand together is in one of them.

    Greedy all-pairs design: of many random combinations take the valid one with most pairs not seen so far.
    ``build``: keywords -> settings; ``config`` if not given.  Pairs are counted in bits, a bit for each option value,
    so that collecting the tests stays cheap.
    """
    draw = random.Random(seed)
    names = list(options)
    values = [(name, i) for name in names for i in range(len(options[name]))]
    bit = {value: 1 << at for at, value in enumerate(values)}
    # the partners that a value has not stood beside yet; an option's own values never stand together
    unseen = {a: sum(bit[b] for b in values if names.index(b[0]) > names.index(a[0])) for a in values}
    table = {}
    while any(unseen.values()):
        first = next(a for a in values if unseen[a])
        target = dict([first, next(b for b in values if unseen[first] & bit[b])])
        best: tuple[int, dict[str, int], Any] | None = None
        for tries in range(20 * draws):
            if best and tries >= draws:
                break
            pick = {name: draw.randrange(len(options[name])) for name in names} | target
            together = sum(bit[value] for value in pick.items())
            new = sum((unseen[value] & together).bit_count() for value in pick.items())
            if best is None or new > best[0]:
                with contextlib.suppress(ConfigError):
                    best = new, pick, _config(pick, options, build)
        if best is None:  # the first value of every other option, the plainest combination
            with contextlib.suppress(ConfigError):
                pick = dict.fromkeys(names, 0) | target
                best = 0, pick, _config(pick, options, build)
        if best is None:
            unseen[first] &= ~bit[list(target.items())[1]]  # excluded by a ConfigError
            continue
        pick = best[1]
        together = sum(bit[value] for value in pick.items())
        for value in pick.items():
            unseen[value] &= ~together
        keywords = {n: options[n][pick[n]] for n in ("mask", "train") if n in options}
        table["-".join(f"{i}" for i in pick.values())] = best[2], keywords
    return table


def _config(pick: dict[str, int], options: dict[str, list[Any]] = OPTIONS, build: Any = None) -> Any:
    settings: dict[str, Any] = {}
    for name, i in pick.items():
        value = options[name][i]
        if isinstance(value, dict):
            settings |= value
        elif name not in ("mask", "train"):
            settings[name] = value
    return (build or config)(**settings)
