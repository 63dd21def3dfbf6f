"""A block's tensors as transformers would save them to the hub: its own conversion, run backwards."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

PLACES = {  # where the block is in a decoder layer of transformers; "" is the layer itself
    "dbrx": "ffn", "jamba": "feed_forward", "gemma4": "", "diffusion_gemma": "", "granitemoe": "block_sparse_moe",
    "granitemoe_swa": "", "granitemoehybrid": "", "granitemoeshared": "", "llama4": "feed_forward", "nllb_moe": "ffn",
    "nemotron_h": "mixer", "lfm2_moe": "feed_forward",
}  # fmt: skip


def saved(family: str, types_: list[str], state: dict[str, np.ndarray], layer: int = 1) -> dict[str, np.ndarray]:
    """{name in the files: array} of the block of one layer."""
    from transformers import core_model_loading
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    place = PLACES.get(family.partition(".")[0], "mlp")
    at = f"model.layers.{layer}." + (f"{place}." if place else "")
    conversions = next((c for c in map(get_checkpoint_conversion_mapping, types_) if c), [])
    conversions = [c for c in conversions if not isinstance(c, core_model_loading.PrefixChange)]
    given = {at + n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in state.items()}
    model: Any = types.SimpleNamespace(
        _weight_conversions=conversions or None, config=types.SimpleNamespace(), get_parameter=given.get
    )
    if not conversions:
        return {n: a.numpy() for n, a in given.items()}
    return {n: a.numpy() for n, a in core_model_loading.revert_weight_conversion(model, given).items()}
