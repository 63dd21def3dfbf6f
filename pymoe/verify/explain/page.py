"""The page of one rule as text: what it says of itself, its settings, its parts, and its example."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any

import numpy as np

from pymoe.hf import preset
from pymoe.moe import losses as losses_
from pymoe.moe import score, select, weigh
from pymoe.moe.config import MoEConfig
from pymoe.moe.router_config import RouterConfig
from pymoe.verify.explain import fields, steps
from pymoe.verify.explain.catalogue import KINDS, Entry, find

GROUPS = {"n_experts": 6, "n_group": 3, "topk_group": 2}  # so that a group falls away and a choice is left
# what the config class of a family leaves open
OPEN: dict[str, dict[str, Any]] = {
    "dots3_note.vision": {"scale": 2.5},
    "ernie4_5_vl_moe": {"d_shared": 4},
    "ernie4_5_vl_moe.vision": {"d_shared": 4},
    "qwen3_omni_moe.talker": {"d_shared": 4},
}


def page(name: str, *, seed: int = 0) -> str:
    """The whole page.

    >>> "what is constant" in page("deepseek_v3")
    True
    """
    entry = find(name)
    lines = [f"{entry.name}: {entry.doc}", "", f"kind     {KINDS[entry.kind]}"]
    lines.append(f"source   {', '.join(entry.sources) or 'see above'}")
    rule = entry.target if entry.kind in ("layer", "attention") else getattr(entry.target, "rule", None)
    if rule is not None:
        found = fields.steps(rule, seed)
    else:
        cfg = example(entry)
        lines += ["", *_settings(cfg), "", "what is constant in the gradient", *(f"- {c}" for c in constants(cfg))]
        for title, part in parts(cfg.router):
            lines += ["", f"the formulas of {title}", textwrap.indent(inspect.getdoc(part) or "", "    ")]
        found = steps.steps(cfg, seed)
    lines += ["", f"an example: {steps.TOKENS} tokens, every step with its numbers", ""]
    for s in found:
        lines += [f"{s.symbol}  ({s.formula})" if s.formula else s.symbol, textwrap.indent(_numbers(s.value), "    ")]
    return "\n".join(lines)


def example(entry: Entry) -> MoEConfig:
    """The preset at the sizes of an example: four experts and two choices, more where it takes more to show its rule.

    >>> example(find("deepseek_v3")).router.n_group
    3
    """
    if entry.kind == "model":
        return _model(entry.name)
    accepted = inspect.signature(entry.target).parameters
    k = accepted["k"].default if "k" in accepted else 2
    smaller = {"n_experts": 4, "k": min(2, k) if isinstance(k, int) else 2}
    smaller = {n: v for n, v in smaller.items() if n in accepted}
    cfg: MoEConfig = entry.target(steps.D, steps.F, **smaller)
    if cfg.router.select == "group_limited":
        cfg = entry.target(steps.D, steps.F, **(smaller | GROUPS))
    if cfg.router.null_norm != "all":  # so that two choices are left where one is a null expert
        cfg = entry.target(steps.D, steps.F, **(smaller | {"k": 3}))
    if cfg.router.capacity is not None and cfg.router.capacity.rule == "gshard":  # so that not every pair is halved
        cfg = entry.target(steps.D, steps.F, **(smaller | {"n_experts": 3}))
    return cfg


def _model(name: str) -> MoEConfig:
    sizes: dict[str, Any] = {"d_model": steps.D, "d_ff": steps.F, "n_experts": 4, "k": 2, "losses": ()}
    sizes |= OPEN.get(name, {})
    cfg: Any = preset(name, **sizes, n_group=1, topk_group=1)
    if cfg.router.select == "group_limited":
        sizes |= GROUPS
    if cfg.router.select == "table":
        sizes |= {"table_size": steps.TOKENS}
    if cfg.d_shared:
        sizes |= {"d_shared": 2 * cfg.n_shared}
    if cfg.d_latent:
        sizes |= {"d_latent": steps.F}
    found = preset(name, **sizes)
    assert isinstance(found, MoEConfig), "a family with a rule of its own is explained by that"
    return found


def constants(cfg: MoEConfig) -> list[str]:
    """What backward takes as given, in words.

    >>> from pymoe import presets
    >>> constants(presets.olmoe(4, 3, n_experts=4, k=2))[0]
    'idx, the chosen experts, and every tie broken on the way (to the lowest id)'
    """
    r = cfg.router
    said = ["idx, the chosen experts, and every tie broken on the way (to the lowest id)"]
    if r.capacity is not None:
        said.append("which choices are dropped: places, queues and capacities")
    if r.selection_bias:
        said.append("router.selection_bias: it selects; moe.bias_update moves it once per optimiser step")
    if r.select == "group_limited":
        said.append("the groups that are left")
    if {"balance", "balance_second"} & set(r.losses):
        said.append("f of the balance loss, a count; only P, the mean score, has a gradient")
    if r.noise != "none" or r.jitter or r.sample != "none" or r.second_threshold is not None:
        said.append("the draws: given to forward, kept, reused by backward")
    if r.select == "table":
        said.append("router.table, the choice of each token id")
    if r.skip is not None:
        said.append("which later choices are skipped")
    return said


def parts(r: RouterConfig) -> list[tuple[str, Any]]:
    """(title, module) of the score, the selection, the weights and the losses."""
    found = [("the score", score.get(r.score)), ("the selection", select.get(r.select)), ("the weights", weigh)]
    return found + [
        (f"the loss {n}", getattr(losses_, n)) for n in r.losses if inspect.ismodule(getattr(losses_, n, 0))
    ]


def _settings(cfg: MoEConfig) -> list[str]:
    """Router and layer, without what stands at its default."""
    lines = ["settings (the others stand at their defaults)"]
    for of, part in (("layer", cfg), ("router", cfg.router)):
        for f in dataclasses.fields(part):
            value = getattr(part, f.name)
            if f.name != "router" and value != f.default:
                lines.append(f"    {of}.{f.name} = {value!r}")
    return lines


def _numbers(value: Any) -> str:
    if isinstance(value, float | int):
        return f"{value:.6g}"
    return np.array2string(np.asarray(value), precision=4, suppress_small=True, separator=", ", max_line_width=116)
