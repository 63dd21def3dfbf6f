"""``pymoe.hf.load`` and ``pymoe.hf.dump``: the parameters of one block under the names that transformers gives them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe import moe
from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import CheckpointError, ConfigError, IndexRangeError, ShapeError, check_shape
from pymoe.hf.blocks import hub, mapped
from pymoe.hf.blocks.families import FAMILIES
from pymoe.hf.blocks.family import AnyBlock, Family
from pymoe.hf.blocks.layouts import Centred, Layout, Shape
from pymoe.moe import parameters
from pymoe.storage import forms


def load(
    source: Mapping[str, Any] | str | os.PathLike[str],
    cfg: AnyBlock,
    *,
    prefix: str | None = None,
    dtype: Any = None,
    layer: int | None = None,
) -> tree.Tree:
    """The parameter tree of ``cfg`` from one block's arrays under the names of its state dict, or from the hub's files.

    source: a state dict, or the path of a safetensors file or of a folder of them, as published (``hub``); then
    ``layer`` says which one, what stands before "layers.3." is looked up, and what can be is left in the mapped file.
    prefix: what stands before those names in a larger state dict ("model.layers.3.mlp."); others are not looked at.
    dtype: None leaves float32 and float64 as they are and reads float16 and bfloat16 (``ml_dtypes``) as float32.
    Arrays that lie as pymoe has them, or transposed, are views; only what must be put together is copied.

    A tensor that is missing, that no formula reads, of another shape (its transpose is named as such) or without
    floating-point numbers: CheckpointError with its name.

    >>> import numpy as np
    >>> from pymoe.hf.blocks.settings import config
    >>> cfg = config({"model_type": "mistral4", "hidden_size": 2, "moe_intermediate_size": 3, "n_routed_experts": 4,
    ...               "n_shared_experts": 0})
    >>> arrays = {"gate.weight": np.ones((4, 2)), "experts.gate_up_proj": np.ones((4, 6, 2)),
    ...           "experts.down_proj": np.ones((4, 2, 3))}
    >>> p = load(arrays, cfg)
    >>> p["experts"]["down_proj"] is arrays["experts.down_proj"]
    True
    """
    family = _family(cfg)
    if isinstance(source, (str, os.PathLike)):
        return _from_files(mapped.Mapped(source), cfg, prefix, dtype, layer)
    if layer is not None:
        raise ConfigError("layer= is for files; of a state dict say prefix='model.layers.3.mlp.'")
    prefix = prefix or ""
    layouts = family.layouts(cfg)
    given = {name[len(prefix) :]: a for name, a in source.items() if name.startswith(prefix)}
    left = {name for name in given if not (family.unread and name.startswith(family.unread))}
    flat: dict[str, Any] = {}
    for own, shape in shapes(cfg).items():
        layout = _layout(layouts, own, family)
        parts = []
        for name, want in zip(layout.names(shape), layout.shapes(shape), strict=True):
            parts.append(_checked(given, name, want, prefix, dtype))
            left.discard(name)
        flat[own] = layout.read(parts, shape)
    if left:
        raise CheckpointError(
            f"the state dict has a tensor that a block of {family.name} does not: {prefix}{sorted(left)[0]}"
        )
    return tree.unflatten(flat)


def _from_files(
    given: Mapping[str, Any], cfg: AnyBlock, prefix: str | None, dtype: Any, layer: int | None, only: int | None = None
) -> tree.Tree:
    """The tree of one layer of published files; ``only``: the matrices of one expert."""
    if layer is None and prefix is None:
        raise ConfigError("files hold many layers: say which, layer=3")
    at = hub.before(given, cfg, layer, prefix)
    also = hub.HUBS[cfg.family].also if cfg.family in hub.HUBS else {}
    given = hub.Layer(given, at, also)
    flat: dict[str, Any] = {}
    layouts = hub.layouts(cfg)
    for own, shape in shapes(cfg).items():
        layout = hub.oriented(given, _layout(layouts, own, FAMILIES[cfg.family]), shape)
        if only is not None:
            if not own.startswith("experts.") or len(shape) < 2:
                continue
            layout, shape = hub.one(layout, shape, only)
        names = layout.names(shape)
        parts = [_checked(given, n, want, at, dtype) for n, want in zip(names, layout.shapes(shape), strict=True)]
        flat[own] = layout.read(parts, shape)
    return tree.unflatten(flat)


def expert(
    path: str | os.PathLike[str], cfg: AnyBlock, e: int, *, layer: int | None = None, prefix: str | None = None
) -> tree.Tree:
    """The parameters of expert ``e`` alone, {"experts": {name: (1, ...)}}, from published files: no other is read."""
    if not 0 <= e < cfg.n_experts:
        raise IndexRangeError(f"expert must be in 0..{cfg.n_experts - 1}, got {e}")
    return _from_files(mapped.Mapped(path), cfg, prefix, None, layer, e)


def dump(p: tree.Tree, cfg: AnyBlock, *, prefix: str = "", gradients: bool = False) -> dict[str, Any]:
    """The inverse of ``load``: arrays under transformers' names, in its layouts.

    gradients: p holds gradients.  It makes a difference where a tensor is kept as w and used as 1 + w (MuseSpark): the
    value to write is one less than here, the gradient is the same.

    Transposed tensors are views, others are what they were; stored weights (``pymoe.storage``) come with their zeros.

    >>> import numpy as np
    >>> from pymoe.hf.blocks.settings import config
    >>> from pymoe.moe import init
    >>> cfg = config({"model_type": "mistral4", "hidden_size": 2, "moe_intermediate_size": 3, "n_routed_experts": 4})
    >>> {name: a.shape for name, a in dump(init(np.random.default_rng(0), cfg), cfg).items() if "down" in name}
    {'experts.down_proj': (4, 2, 3), 'shared_experts.down_proj.weight': (2, 3)}
    """
    family = _family(cfg)
    layouts = family.layouts(cfg)
    found, flat = {}, tree.flatten(forms.dense(p))
    for own, shape in shapes(cfg).items():
        if own not in flat:
            raise ShapeError(f"the tree to dump lacks {own}, which these settings of {family.name} have")
        leaf = flat.pop(own)
        check_shape(own, leaf, shape)
        layout = _layout(layouts, own, family)
        a = to_numpy(leaf)
        written = [a] if gradients and isinstance(layout, Centred) else layout.write(a)
        for name, part in zip(layout.names(tuple(a.shape)), written, strict=True):
            found[prefix + name] = part
    if flat:
        raise ShapeError(f"the tree to dump has {sorted(flat)[0]}, which these settings of {family.name} have not")
    return found


def shapes(cfg: Any) -> Mapping[str, Shape]:
    """Dotted name -> shape of every parameter that these settings have.

    >>> from pymoe.hf.blocks.settings import config
    >>> cfg = config({"model_type": "mistral4", "hidden_size": 2, "moe_intermediate_size": 3, "n_routed_experts": 4})
    >>> shapes(cfg)["experts.down_proj"]
    (4, 2, 3)
    """
    rule = _family(cfg).rule
    return parameters.shapes(cfg) if rule is None else rule.shapes(cfg)


def module_of(cfg: AnyBlock) -> Any:
    """The module whose ``forward`` and ``backward`` run the block: ``pymoe.moe``, or one of ``moe.rules``.

    >>> from pymoe.hf.blocks.settings import config
    >>> sizes = {"hidden_size": 2, "num_local_experts": 4}
    >>> module_of(config({"model_type": "phimoe", "intermediate_size": 3, **sizes})).__name__
    'pymoe.moe.rules.sparse_mixer'
    """
    rule = _family(cfg).rule
    return moe if rule is None else rule


def _family(cfg: Any) -> Family:
    name = getattr(cfg, "family", "")
    if name not in FAMILIES:
        raise ConfigError(
            f"these settings name no family (got {name!r}): hf.load and hf.dump take what hf.config makes; "
            "dataclasses.replace keeps the family"
        )
    return FAMILIES[name]


def _layout(layouts: Mapping[str, Layout], own: str, family: Family) -> Layout:
    if own not in layouts:
        raise ConfigError(f"a block of {family.name} has no place for {own}: its checkpoints cannot say this setting")
    return layouts[own]


def _checked(given: Mapping[str, Any], name: str, want: Shape, prefix: str, dtype: Any) -> Any:
    if name not in given:
        raise CheckpointError(f"the state dict has no tensor {prefix}{name}: it is incomplete, or of another family")
    try:
        a = np.asarray(given[name])
    except TypeError:  # torch has no NumPy array for bfloat16
        raise CheckpointError(
            f"tensor {prefix}{name} of type {type(given[name]).__name__} has no NumPy array: hand over arrays "
            "(of torch's bfloat16: t.float().numpy()), or the path of the safetensors files"
        ) from None
    if tuple(a.shape) != tuple(want):
        turned = len(want) >= 2 and tuple(a.shape) == (*want[:-2], want[-1], want[-2])
        hint = ": that is its transpose, stored by another convention" if turned else ""
        raise CheckpointError(f"tensor {prefix}{name} has shape {tuple(a.shape)}, the settings say {tuple(want)}{hint}")
    if a.dtype.kind != "f" and a.dtype.name != "bfloat16":
        if not (a.dtype.kind in "iu" and name.endswith(INTEGERS)):
            raise CheckpointError(f"tensor {prefix}{name} holds {a.dtype}, no floating-point numbers: quantised?")
        return a
    if dtype is not None:
        return a.astype(dtype, copy=False)
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)


INTEGERS = ("tid2eid",)  # tables of expert ids
