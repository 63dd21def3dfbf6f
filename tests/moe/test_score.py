"""Which names and which modules are scores."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pymoe.backend.errors import ConfigError
from pymoe.moe import score, select
from pymoe.ops import sigmoid, softmax


def test_names_and_modules() -> None:
    assert score.get("softmax") is softmax and score.get("sigmoid") is sigmoid and score.get(softmax) is softmax
    assert all(select.get(name) is module for name, module in select.SELECTORS.items())
    own = SimpleNamespace(select=lambda c, cfg, real_token: None)
    assert select.get(own) is own


@pytest.mark.parametrize("rule", ["tanh", SimpleNamespace(forward=abs)])
def test_what_is_no_score_is_refused(rule: object) -> None:
    with pytest.raises(ConfigError, match="score"):
        score.get(rule)
    with pytest.raises(ConfigError, match="select"):
        select.get(rule)
