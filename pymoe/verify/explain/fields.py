"""A layer of its own on three tokens: what it keeps between forward and backward, under the names of its cache."""

from __future__ import annotations

import dataclasses
import inspect
import re
from types import ModuleType
from typing import Any

import numpy as np

from pymoe.backend import tree
from pymoe.moe.router_config import RouterConfig
from pymoe.verify.explain.steps import BALANCE, TOKENS, D, F, Step, numbers

# what a rule's settings are called -> how large they are in an example: as small as the rule allows
SIZES: dict[str, Any] = {
    "d_model": D, "d_ff": F, "n_experts": 4, "k": 2, "d_key": 2, "d_router": 2, "heads": 1, "slots": 2, "n_slots": 2,
    "capacity": 0.5, "n_heads": 1, "d_head": 2, "router": RouterConfig(4, 2, score_at="chosen", select_on="logits"),
}  # fmt: skip
NUMBERS = 64  # an array of more is told by its shape


def example(module: ModuleType) -> Any:
    """The ``Config`` of a rule at the sizes of an example.

    >>> from pymoe.moe.rules import remoe
    >>> cfg = example(remoe)
    >>> cfg.n_experts, cfg.k
    (4, 1)
    """
    chosen = {}
    for f in dataclasses.fields(module.Config):
        if f.name in SIZES:
            size = SIZES[f.name]
            if isinstance(f.default, int) and f.default:  # 0: no size of its own
                size = min(size, f.default)  # a rule that fixes it keeps its own
            chosen[f.name] = size
    return module.Config(**chosen)


def steps(module: ModuleType, seed: int = 0) -> list[Step]:
    """Input, parameters, every named intermediate, output and gradients.

    >>> from pymoe.moe.rules import remoe
    >>> [s.symbol for s in steps(remoe)][:2]
    ['x', 'router.weight']
    """
    cfg, rng = example(module), np.random.default_rng(seed)
    p = tree.map(lambda a: numbers(rng, a.shape), module.init(rng, cfg))
    shape = (1, TOKENS, cfg.d_model) if hasattr(cfg, "causal") else (TOKENS, cfg.d_model)  # attention takes sequences
    x, dy = numbers(rng, shape), numbers(rng, shape)
    draws = module.draw(rng, cfg, TOKENS) if hasattr(module, "draw") else None
    out, cache = module.forward(x, p, cfg, draws=draws) if draws is not None else module.forward(x, p, cfg)
    given = [Step("x", "three tokens (T, D)", x)]
    shown = {name: a for name, a in tree.flatten(p).items() if not name.startswith("experts.")}
    given += [Step(name, "a parameter", a) for name, a in shown.items()]
    if draws is not None:
        given += [Step(name, "a draw, kept for backward", a) for name, a in draws._asdict().items() if a is not None]
    known = {a.tobytes() for a in (x, *tree.flatten(p).values())}
    between = [s for s in _named(cache, "") if np.asarray(s.value).tobytes() not in known]
    results = [s for s in _named(out, "out.") if not s.symbol.startswith("out.losses")]
    results += [Step(f"loss {name}", "without its coefficient", float(v)) for name, v in out.losses.items()]
    dlosses = {name: BALANCE for name in out.losses}
    dx, dp = module.backward(dy, cache, dlosses) if dlosses else module.backward(dy, cache)
    grads = [Step(f"d {name}", "gradient", a) for name, a in tree.flatten(dp).items() if name in shown]
    return [*given, *between, *results, Step("dy", "given", dy), *grads, Step("dx", "gradient of the tokens", dx)]


def _named(value: Any, prefix: str) -> list[Step]:
    """The arrays of a NamedTuple, depth first, each with the comment that stands behind its field."""
    found: list[Step] = []
    notes = _comments(type(value))
    for name, field in value._asdict().items():
        if hasattr(field, "_asdict"):
            if name not in ("experts", "frame", "plan"):  # as in every layer
                found += _named(field, f"{prefix}{name}.")
        elif isinstance(field, dict):
            for key, one in field.items():
                if hasattr(one, "_asdict"):
                    found += _named(one, f"{prefix}{name}.{key}.")
        elif isinstance(field, np.ndarray) and 0 < field.size <= NUMBERS:
            found.append(Step(prefix + name, notes.get(name, ""), field))
    return found


def _comments(kind: type) -> dict[str, str]:
    source = inspect.getsource(kind)
    return {m[1]: m[2].strip() for m in re.finditer(r"^    (\w+): [^#\n]+#(.*)$", source, re.M)}
