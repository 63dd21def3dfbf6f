"""``pymoe.hf.config``: a config.json, its dict or a config object of transformers -> the settings of its MoE block."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.hf.blocks.families import FAMILIES, of_type
from pymoe.hf.blocks.family import OF_RULE, SYNONYMS, AnyBlock, BlockConfig, Family, Fields, Get
from pymoe.presets.make import make


def config(source: Any, *, layer: int | None = None, part: str | None = None, **changes: Any) -> AnyBlock:
    """The settings of the MoE block that a config describes; ``changes`` are keywords of a preset, said over them.

    source: the path of a config.json (or of its folder), its dict, or a config object of transformers, of the whole
    model or of the part that holds the experts.  layer: which one, where a setting is a list with an entry a layer.
    part: which block of a family that has several (``blocks.families.of_type``), such as "talker".

    A model_type without experts, a missing field, two names of one field with two values, a layer or a part that is
    not there: ConfigError or CheckpointError that names it.

    >>> cfg = config({"model_type": "hunyuan_v1_moe", "hidden_size": 8, "intermediate_size": 5, "num_experts": 6,
    ...               "moe_topk": [2, 3]}, layer=1)
    >>> cfg.family, cfg.k, cfg.router.norm, cfg.d_shared
    ('hunyuan_v1_moe', 3, 'l1', 5)
    """
    raw = _dict(source)
    family = _family(raw, part)
    fields = Fields(family.name, _of_layer(_inside(raw, family.types[raw["model_type"]]), layer), layer)
    return _made(family, fields, changes)


def _made(family: Family, fields: Fields, changes: Mapping[str, Any]) -> AnyBlock:
    said = family.keywords(fields, changes) | dict(changes)
    if family.rule is not None:
        found: AnyBlock = OF_RULE[family.rule](**said, family=family.name)
        return found
    if not said.get("d_shared"):
        said = {n: v for n, v in said.items() if n not in ("shared", "n_shared", "shared_form", "shared_bias")}
    d_model, d_ff, n_experts, k = (said.pop(name) for name in ("d_model", "d_ff", "n_experts", "k"))
    made = make(d_model, d_ff, n_experts, k, {"losses": ()}, said)
    kept = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return BlockConfig(**kept, family=family.name)


def preset(name: str, *, layer: int | None = None, **changes: Any) -> AnyBlock:
    """The block of a family as its config class has it by default; ``changes`` are keywords of a preset.

    name: a family of ``blocks.FAMILIES``, such as "glm4_moe" or "qwen3_omni_moe.talker".  What has no default (a family
    whose config leaves E or k open) has to be said.  An unknown name: ConfigError.

    >>> cfg = preset("glm4_moe", d_model=8, d_ff=5, n_experts=6, k=3)
    >>> cfg.router.score, cfg.router.eps, cfg.d_shared
    ('sigmoid', 1e-20, 5)
    """
    if name not in FAMILIES:
        raise ConfigError(f"{name!r} is no family that pymoe.hf knows; they are {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[name]
    raw, left = {}, dict(changes)
    for size in ("d_model", "d_ff", "n_experts", "k"):  # as fields, so that what follows from them does
        source = family.settings.get(size)
        if size in left and isinstance(source, Get):
            raw[SYNONYMS.get(source.name, (source.name,))[0]] = left.pop(size)
    return _made(family, Fields(name, raw, layer), left)


def _dict(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if hasattr(source, "to_dict"):
        found = source.to_dict()
        return found if found.get("model_type") else {**found, "model_type": type(source).__name__}
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(f"hf.config takes a path, a dict or a config of transformers, got {type(source).__name__}")
    path = os.fspath(source)
    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    try:
        with open(path, "rb") as file:
            raw = json.loads(file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of a config.json or of its folder") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): use another copy") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds no JSON object: use another copy")
    return raw


def _family(raw: Mapping[str, Any], part: str | None) -> Family:
    name = raw.get("model_type")
    found = of_type(name) if isinstance(name, str) else []
    if not found:
        raise ConfigError(
            f"model_type {name!r} is no family with experts that pymoe.hf knows; they are {', '.join(sorted(FAMILIES))}"
        )
    if part is None:
        return found[0]
    by_part = {family.name.partition(".")[2] or "main": family for family in found}
    if part not in by_part:
        raise ConfigError(f"{name} has the parts {', '.join(by_part)}, not {part!r}")
    return by_part[part]


def _of_layer(raw: Mapping[str, Any], layer: int | None) -> Mapping[str, Any]:
    """``per_layer_config`` holds what single layers have otherwise, under their numbers."""
    own = raw.get("per_layer_config")
    if layer is None or not isinstance(own, Mapping):
        return raw
    return {**raw, **(own.get(layer) or own.get(str(layer)) or {})}


def _inside(raw: Mapping[str, Any], way: tuple[str, ...]) -> Mapping[str, Any]:
    """The fields of the part; those of the whole stand in for what it leaves out."""
    for step in way:
        inner = next((raw[name] for name in step.split("|") if name in raw), None)
        if not isinstance(inner, Mapping):
            raise CheckpointError(f"the config of {raw.get('model_type')} has no {step!r}: it is incomplete")
        raw = {**{n: v for n, v in raw.items() if n in ("d_model", "hidden_size")}, **inner}
    return raw
