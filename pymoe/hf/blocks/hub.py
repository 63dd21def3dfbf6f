"""Where the published files keep a block: other names than in memory, experts one by one, gate and up apart or mixed.

For each family: the block's place in a layer of the files, what its experts' matrices are called, which names are
others.  All names are relative to a layer; what stands before "layers.3." differs from model to model, so it is looked
up in the file.  A family that is not in ``HUBS`` is stored as it lies in memory.

Sources: transformers 5.23.0, ``conversion_mapping.py``; a test saves every family by that and reads it back here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError, ConfigError
from pymoe.hf.blocks.families import FAMILIES
from pymoe.hf.blocks.layouts import Each, EachPair, Layout, Mixed, Pair, Same, Shape, Transposed

GATE_UP_DOWN = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
W = ("w1.weight", "w3.weight", "w2.weight")
FC = ("fc1.weight", "fc3.weight", "fc2.weight")


@dataclasses.dataclass(frozen=True)
class Hub:
    """block: its place in a layer; experts: (gate, up, down) of each, under ``block.experts.{}.``, or None: stacked;
    names: what begins otherwise, longest first; own: layouts of single parameters."""

    block: str = "mlp."
    experts: tuple[str, str, str] | None = GATE_UP_DOWN
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    own: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)  # another name in some files -> the usual one


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A layout whose tensors are called otherwise."""

    layout: Layout
    hub: Hub

    def names(self, shape: Shape) -> list[str]:
        return [self._name(name) for name in self.layout.names(shape)]

    def _name(self, name: str) -> str:
        for old, new in self.hub.names.items():
            if name.startswith(old):
                return new + name[len(old) :]
        return self.hub.block + name

    def shapes(self, shape: Shape) -> list[Shape]:
        return self.layout.shapes(shape)

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return self.layout.read(parts, shape)

    def write(self, a: Any) -> list[Any]:
        return self.layout.write(a)


PLAIN, MIXTRAL = Hub(), Hub("block_sparse_moe.", W)
STACKED = Hub(experts=None)
_BIAS = "gate.e_score_correction_bias"
_GRANITE = Hub("", None, {
    "block_sparse_moe.experts.gate_up_proj": "block_sparse_moe.input_linear.weight",
    "block_sparse_moe.experts.down_proj": "block_sparse_moe.output_linear.weight",
    "block_sparse_moe.router.weight": "block_sparse_moe.router.layer.weight",
})  # fmt: skip
_GRANITE_BARE = Hub("block_sparse_moe.", None, {
    "experts.gate_up_proj": "block_sparse_moe.input_linear.weight",
    "experts.down_proj": "block_sparse_moe.output_linear.weight", "router.": "block_sparse_moe.router.layer.",
})  # fmt: skip
_INKLING = {"experts.gate_up_proj": Mixed("mlp.experts.w13_weight"), "experts.down_proj": Same("mlp.experts.w2_weight")}
HUBS: dict[str, Hub] = {
    **dict.fromkeys(
        "qwen3_moe mellum olmoe flex_olmo qwen2_moe qwen3_next qwen4_exp qwen3_omni_moe qwen3_omni_moe.talker "
        "qwen3_5_moe hunyuan_v1_moe cohere2_moe deepseek_v3 deepseek_v32 dots1 dots3_note glm4_moe glm4_moe_lite "
        "glm4v_moe glm_moe_dsa solar_open glm5_next axk2 mimo_v2_flash beam afmoe flint deepseek_v2 deepseek_ocr2 "
        "unlimited_ocr".split(),
        PLAIN,
    ),
    "mixtral": MIXTRAL, "minimax": MIXTRAL, "minimax_m2": MIXTRAL, "kimi_linear": MIXTRAL,
    "phimoe": Hub("block_sparse_moe.", W, {"router.": "block_sparse_moe.gate."}),
    "qwen3_vl_moe": Hub(experts=None, own={
        "experts.gate_up_proj": Transposed("mlp.experts.gate_up_proj"),
        "experts.down_proj": Transposed("mlp.experts.down_proj"),
    }),
    "dbrx": Hub("ffn.", None), "jamba": Hub("feed_forward."), "llama4": Hub("feed_forward.", None),
    "gemma4": Hub("", None), "diffusion_gemma": Hub("", None), "nllb_moe": Hub("ffn.", None),
    "granitemoe": _GRANITE_BARE, "granitemoeshared": _GRANITE, "granitemoehybrid": _GRANITE,
    "granitemoe_swa": Hub("", None),
    "aria": Hub(experts=None, names={
        "experts.gate_up_proj": "mlp.experts.fc1.weight", "experts.down_proj": "mlp.experts.fc2.weight",
    }),
    "bailing_hybrid": Hub(names={_BIAS: "mlp.gate.expert_bias"}),
    "exaone_moe": Hub(names={_BIAS: "mlp.e_score_correction_bias"}),
    "axk1": Hub(names={"post_mlp_layernorm.": "post_mlp_layernorm."}),
    "hy_v4": Hub(experts=None, also={"mlp.shared_experts.linear_gate.": "mlp.shared_experts.gate_proj."}),
    "nemotron_h": Hub("mixer."),
    "hy_v3": Hub(names={
        "gate.weight": "mlp.router.gate.weight", "e_score_correction_bias": "mlp.expert_bias",
        "shared_experts.": "mlp.shared_mlp.",
    }),
    "dots3_note.vision": Hub(experts=FC, names={
        "gate.weight": "mlp.gate_weight", "e_score_correction_bias": "mlp.router_bias",
    }),
    "minimax_m3_vl": Hub("block_sparse_moe.", W, {_BIAS: "block_sparse_moe.e_score_correction_bias"}, {
        "shared.gate_up_proj": Pair(
            "block_sparse_moe.shared_experts.gate_proj.weight", "block_sparse_moe.shared_experts.up_proj.weight"
        ),
    }),
    "step3p7": Hub("moe.", None, {_BIAS: "moe.router_bias", "shared_experts.": "share_expert."}, {
        "experts.gate_up_proj": Pair("moe.gate_proj.weight", "moe.up_proj.weight"),
        "experts.down_proj": Same("moe.down_proj.weight"),
    }),
    "laguna": Hub(names={_BIAS: "mlp.experts.e_score_correction_bias", "shared_experts.": "mlp.shared_expert."}),
    "lfm2_moe": Hub("feed_forward.", W),
    "kolibri1": Hub(names={_BIAS: "moe.router.expert_bias"}),
    **dict.fromkeys(("deepseek_v4", "deepseek_v4.hash"), Hub("ffn.", W, {
        _BIAS: "ffn.gate.bias", "shared_experts.gate_proj.": "ffn.shared_experts.w1.",
        "shared_experts.up_proj.": "ffn.shared_experts.w3.", "shared_experts.down_proj.": "ffn.shared_experts.w2.",
    })),
    "inkling2": Hub(experts=None, names={_BIAS: "mlp.gate.bias"}, own=_INKLING),
    "inkling": Hub(experts=None, names={
        _BIAS: "mlp.gate.bias", "shared_experts.down_proj": "mlp.shared_experts.shared_w2_weight",
    }, own=_INKLING | {"shared.gate_up_proj": Mixed("mlp.shared_experts.shared_w13_weight", joint=True)}),
    "ernie4_5_moe": Hub(names={"gate.moe_statics.": "mlp.moe_statics."}),
    "longcat_flash": Hub(),
    "mistral_large4": Hub("", W),
}  # fmt: skip
# Both kinds of experts are one list in the files, text first; each router's matrix is turned, and the biases are rows.
_ERNIE_VL = {"ernie4_5_vl_moe": ("mlp.gate.weight", 0), "ernie4_5_vl_moe.vision": ("mlp.gate.weight_1", 1)}


def layouts(cfg: Any) -> Mapping[str, Layout]:
    """Parameter -> how the published files have it, with names relative to a layer.

    >>> from pymoe.hf.blocks.settings import config
    >>> cfg = config({"model_type": "mixtral", "hidden_size": 2, "intermediate_size": 3, "num_local_experts": 2})
    >>> layouts(cfg)["experts.down_proj"].names((2, 2, 3))
    ['block_sparse_moe.experts.0.w2.weight', 'block_sparse_moe.experts.1.w2.weight']
    """
    native = FAMILIES[cfg.family].layouts(cfg)
    if cfg.family in _ERNIE_VL:
        return _ernie_vl(native, *_ERNIE_VL[cfg.family], cfg.n_experts)
    hub = HUBS.get(cfg.family, STACKED)
    found: dict[str, Layout] = {name: Renamed(layout, hub) for name, layout in native.items()}
    if hub.experts is not None:
        found |= _each(hub.block, hub.experts)
    own: dict[str, Layout] = dict(hub.own)
    joint = own.get("shared.gate_up_proj")
    if isinstance(joint, Mixed):
        own["shared.gate_up_proj"] = dataclasses.replace(joint, n=cfg.n_shared)
    return found | own


def _each(block: str, names: tuple[str, str, str], first: int = 0) -> dict[str, Layout]:
    gate, up, down = (f"{block}experts.{{}}.{name}" for name in names)
    return {
        "experts.gate_up_proj": EachPair(gate, up, first), "experts.up_proj": Each(up, first),
        "experts.down_proj": Each(down, first),
    }  # fmt: skip


def _ernie_vl(native: Mapping[str, Layout], gate: str, row: int, n_experts: int) -> dict[str, Layout]:
    plain = {name: Renamed(layout, PLAIN) for name, layout in native.items()}
    return plain | _each("mlp.", GATE_UP_DOWN, row * n_experts) | {
        "router.weight": Transposed(gate), "router.selection_bias": Row("mlp.moe_statics.e_score_correction_bias", row),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row(Same):
    """One of the two rows of a tensor, read only: what is in the other belongs to another block."""

    row: int = 0

    def shapes(self, shape: Shape) -> list[Shape]:
        return [(2, *shape)]

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        return parts[0][self.row]

    def write(self, a: Any) -> list[Any]:
        raise ConfigError(f"{self.name} holds two blocks: it cannot be written from one of them")


def before(given: Mapping[str, Any], cfg: Any, layer: int | None, prefix: str | None) -> str:
    """What stands before the names of a layer in these files, such as "model.layers.3."."""
    if prefix is not None:
        return prefix
    router = layouts(cfg)["router.down_weight" if cfg.family == "zaya" else "router.weight"].names((1, 1))[0]
    ends = f"layers.{layer}.{router}"
    found = [name[: -len(router)] for name in given if name == ends or name.endswith("." + ends)]
    if cfg.family == "dbrx":
        found = [n[: -len(router)] for n in given if n.endswith(f"blocks.{layer}.{router}")]
    if len(found) != 1:
        raise CheckpointError(
            f"the files have {len(found)} tensors that end with {ends!r}, the router of a layer of {cfg.family}"
            + (
                f": {', '.join(found)}; say which with prefix="
                if found
                else ": of another family, a dense layer, or layers of another name; prefix= says what stands before"
            )
        )
    return found[0]


def oriented(given: Mapping[str, Any], layout: Layout, shape: Shape) -> Layout:
    """The layout of a stack that some files turn and others do not (Qwen3-VL), by its shape.

    CheckpointError where it is square: nothing tells which way it lies, and a wrong guess would be silent.
    """
    if not isinstance(layout, Transposed) or len(shape) != 3 or layout.name not in given:
        return layout
    if shape[1] == shape[2]:
        raise CheckpointError(
            f"tensor {layout.name} is square, {shape}: some files of this family have it turned and others not; "
            "its shape cannot show which; load its state dict with hf.load, turned as you know it to be"
        )
    return Same(layout.name) if tuple(given[layout.name].shape) == tuple(shape) else layout


class Layer(Mapping[str, Any]):
    """The tensors of one layer, under their names within it."""

    def __init__(self, given: Mapping[str, Any], at: str, also: Mapping[str, str]) -> None:
        self.given, self.names = given, {n[len(at) :]: n for n in given if n.startswith(at)}
        for other, usual in also.items():
            self.names |= {usual + n[len(other) :]: full for n, full in self.names.items() if n.startswith(other)}

    def __getitem__(self, name: str) -> Any:
        return self.given[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def one(layout: Layout, shape: Shape, e: int) -> tuple[Layout, Shape]:
    """The layout of expert e alone, (1, ...): its own tensors, or its part of a stack."""
    if isinstance(layout, (Each, EachPair)):
        return dataclasses.replace(layout, first=layout.first + e), (1, *shape[1:])
    return Part(layout, shape, e), (1, *shape[1:])


@dataclasses.dataclass(frozen=True)
class Part:
    """Expert e of tensors that hold all E along their first axis."""

    layout: Layout
    shape: Shape
    e: int

    def names(self, shape: Shape) -> list[str]:
        return self.layout.names(self.shape)

    def shapes(self, shape: Shape) -> list[Shape]:
        return self.layout.shapes(self.shape)

    def read(self, parts: Sequence[Any], shape: Shape) -> Any:
        rows = [a.shape[0] // self.shape[0] for a in parts]  # more than one where the first axes are joined
        if isinstance(self.layout, Renamed) and isinstance(self.layout.layout, Each):
            return np.asarray(parts[self.e])[None]
        return self.layout.read([a[self.e * n : (self.e + 1) * n] for a, n in zip(parts, rows, strict=True)], shape)

    def write(self, a: Any) -> list[Any]:
        raise ConfigError("one expert is read alone, and written with the others")
