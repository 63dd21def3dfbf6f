"""Softmax and groups: DeepSeek-V2 (a group is as good as its best expert) and Mistral 4 (as its two best)."""

from __future__ import annotations

from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import parts
from pymoe.hf.blocks.family import MORE, Family, Fields, Get

_NAMES = parts.router() | parts.stacked() | parts.shared()
_SHARED = {"d_shared": parts.times("moe_intermediate_size", "n_shared")}


def _deepseek_v2(fields: Fields) -> dict[str, Any]:
    """As the authors' code: weights are renormalised or scaled, not both; transformers never renormalises."""
    method = fields("topk_method")
    if fields.maybe("norm") and fields("k") > 1:
        weigh = {"norm": "l1", "eps": 1e-20}
    else:
        weigh = {"scale": fields("scale")}
    if method == "greedy":
        return weigh
    if method != "group_limited_greedy":
        raise ConfigError(f"{fields.family}: topk_method must be greedy or group_limited_greedy, got {method!r}")
    groups = {"n_group": fields("n_group"), "topk_group": fields("topk_group")}
    return {"select": "group_limited", "group_score": "max"} | groups | weigh


_V2 = parts.sizes() | parts.NO_LOSS | _SHARED | {MORE: _deepseek_v2}
_V2_BIAS = _V2 | {"shared_bias": Get("mlp_bias", bool)}
_MISTRAL = parts.sizes() | parts.NO_LOSS | _SHARED | {
    "select": "group_limited", "group_score": "top2", "n_group": Get("n_group"), "topk_group": Get("topk_group"),
    "scale": Get("scale"), "eps": 1e-20, "norm": "l1",
}  # fmt: skip
TEXT = ("text_config",)

FAMILIES = (
    Family("deepseek_v2", {"deepseek_v2": ()}, _V2_BIAS, _NAMES),
    Family("deepseek_ocr2", {"deepseek_ocr2": TEXT, "deepseek_ocr2_text": ()}, _V2_BIAS, _NAMES),
    Family(
        "unlimited_ocr", {"unlimited_ocr": ("text_config|language_config",), "unlimited_ocr_text": ()}, _V2_BIAS, _NAMES
    ),
    Family("mistral4", {"mistral4": ()}, _MISTRAL | {"norm": Get("norm", parts.normalised)}, _NAMES),
    Family("mistral_large4", {"mistral_large4": TEXT, "mistral_large4_text": ()}, _MISTRAL, _NAMES),
)  # fmt: skip
