"""transformers in float64 all through: norms, routers and rotary angles cast to float32, whatever the dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")


@contextlib.contextmanager
def casts_answered_in_double() -> Iterator[None]:
    """Within this block a float64 tensor that is asked for as float32 stays as it is."""
    to, single, softmax = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax

    def stays(self, *args, **kwargs):
        asked = [*args, *kwargs.values()]
        return self if self.dtype == torch.float64 and torch.float32 in asked else to(self, *args, **kwargs)

    def wide(x, *args, **kwargs):
        if x.dtype == torch.float64 and kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return softmax(x, *args, **kwargs)

    torch.Tensor.to = stays
    torch.Tensor.float = lambda self, *a, **k: self if self.dtype == torch.float64 else single(self, *a, **k)
    torch.nn.functional.softmax = wide
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax = to, single, softmax


def angles_in_double(m, base: float) -> None:
    """The rotary frequencies, which are a buffer computed in float32, computed again."""
    rotary = m.model.rotary_emb
    n = rotary.inv_freq.numel()
    rotary.inv_freq = 1.0 / base ** (torch.arange(0, n, dtype=torch.float64) / n)
