"""Ways to break the layer as others did: each takes pytest's ``monkeypatch`` and puts a wrong function in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from pymoe import moe
from pymoe.backend import tree

Break = Callable[[Any], None]


def settings(**changes: Any) -> Break:
    """The layer runs with other settings than it was given; a function changes the value that was given."""

    def wrong(cfg: Any) -> Any:
        router = {n for n in changes if hasattr(cfg.router, n) and not hasattr(type(cfg), n)}
        router -= {f.name for f in dataclasses.fields(cfg)}

        def value(holder: Any, n: str) -> Any:
            return changes[n](getattr(holder, n)) if callable(changes[n]) else changes[n]

        inner = dataclasses.replace(cfg.router, **{n: value(cfg.router, n) for n in router})
        return dataclasses.replace(cfg, router=inner, **{n: value(cfg, n) for n in changes if n not in router})

    def apply(monkeypatch: Any) -> None:
        right = moe.forward
        monkeypatch.setattr(moe, "forward", lambda x, p, cfg, *a, **k: right(x, p, wrong(cfg), *a, **k))

    return apply


def inputs(change: Callable[..., tuple[Any, Any]]) -> Break:
    """``change(x, p, draws) -> (x, p)`` before the layer."""

    def apply(monkeypatch: Any) -> None:
        right = moe.forward

        def forward(x: Any, p: Any, cfg: Any, mask: Any = None, draws: Any = None, **k: Any) -> Any:
            x, p = change(x, p, draws)
            return right(x, p, cfg, mask=mask, draws=draws, **k)

        monkeypatch.setattr(moe, "forward", forward)

    return apply


def output(change: Callable[..., dict[str, Any]]) -> Break:
    """``change(out, x, p, cfg)`` gives other values of y, losses, or of the routing's fields, by name."""

    def apply(monkeypatch: Any) -> None:
        right = moe.forward

        def forward(x: Any, p: Any, cfg: Any, *a: Any, **k: Any) -> Any:
            out, cache = right(x, p, cfg, *a, **k)
            with np.errstate(all="ignore"):
                new = change(out, x, p, cfg)
            losses = {n.removeprefix("loss "): v for n, v in new.items() if n.startswith("loss ")}
            routing = out.routing._replace(**{n: v for n, v in new.items() if n in out.routing._fields})
            return out._replace(y=new.get("y", out.y), losses={**out.losses, **losses}, routing=routing), cache

        monkeypatch.setattr(moe, "forward", forward)

    return apply


def gradient(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Break:
    """``change({name: gradient})``, of dx as "x" and of the parameters, gives other ones by name."""

    def apply(monkeypatch: Any) -> None:
        right = moe.backward

        def backward(*a: Any, **k: Any) -> Any:
            dx, dp = right(*a, **k)
            flat = {"x": dx, **tree.flatten(dp)}
            flat |= change(flat)
            return flat.pop("x"), tree.unflatten(flat)

        monkeypatch.setattr(moe, "backward", backward)

    return apply


def replaced(holder: Any, name: str, wrap: Callable[[Any], Any]) -> Break:
    """``holder.name`` becomes ``wrap(holder.name)``."""
    return lambda monkeypatch: monkeypatch.setattr(holder, name, wrap(getattr(holder, name)))


def scaled(name: str, factor: float = 1.001) -> Break:
    return gradient(lambda g: {name: g[name] * factor})
