"""The promises that the presets make."""

from __future__ import annotations

import pytest

from pymoe.models.count import count_parameters
from pymoe.train import presets, size


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_is_a_sparse_model_with_a_dense_twin_of_its_active_size(name):
    preset = presets.PRESETS[name]
    cfg = preset.model(65, preset.settings.window)
    count, twin = count_parameters(cfg), count_parameters(size.dense_twin(cfg))
    assert cfg.context == preset.settings.window and count.active < count.total
    assert count.active <= twin.total <= 1.02 * count.active


def test_shakespeare_keeps_to_nanogpts_budget():
    preset = presets.PRESETS["shakespeare"]
    s = preset.settings
    assert (s.steps, s.rows, s.window) == (2000, 12, 64)
    assert count_parameters(preset.model(65, 64)).active <= 800_000
