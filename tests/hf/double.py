"""transformers in float64 all through: norms, routers and rotary angles cast to float32, whatever the dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")


@contextlib.contextmanager
def casts_answered_in_double(integers: bool = False) -> Iterator[None]:
    """Within this block a float64 tensor asked for as float32 stays as it is; ``integers``: they become float64."""
    to, single, kind = torch.Tensor.to, torch.Tensor.float, torch.Tensor.type
    softmaxes = ((torch.nn.functional, torch.nn.functional.softmax), (torch.Tensor, torch.Tensor.softmax))

    def stays(self, *args, **kwargs):
        asked = [*args, *kwargs.values()]
        return self if self.dtype == torch.float64 and torch.float32 in asked else to(self, *args, **kwargs)

    def number(self, *args):
        if self.dtype == torch.float64:
            return self
        return to(self, torch.float64) if integers and not self.dtype.is_floating_point else single(self, *args)

    def wide(softmax):
        def run(x, *args, **kwargs):
            if x.dtype == torch.float64 and kwargs.get("dtype") == torch.float32:
                kwargs["dtype"] = torch.float64
            return softmax(x, *args, **kwargs)

        return run

    torch.Tensor.to = stays
    torch.Tensor.float = number
    torch.Tensor.type = lambda self, *a: self if self.dtype == torch.float64 and torch.float32 in a else kind(self, *a)
    for place, softmax in softmaxes:
        place.softmax = wide(softmax)
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, torch.Tensor.type = to, single, kind
        for place, softmax in softmaxes:
            place.softmax = softmax


def angles_in_double(m, base: float) -> None:
    """The rotary frequencies, which are a buffer computed in float32, computed again."""
    rotary = m.model.rotary_emb
    n = rotary.inv_freq.numel()
    rotary.inv_freq = 1.0 / base ** (torch.arange(0, n, dtype=torch.float64) / n)


@contextlib.contextmanager
def single_means_double() -> Iterator[None]:
    """Within this block torch.float and torch.float32 are float64: tables of constants come out in double."""
    names = ("float", "float32")
    before = {name: getattr(torch, name) for name in names}
    for name in names:
        setattr(torch, name, torch.float64)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch, name, value)


def frequencies_in_double(m) -> None:
    """The rotary frequencies of any kind, computed again by transformers' own functions."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in m.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "rope_type"):
            own = module.compute_default_rope_parameters
            init = own if module.rope_type == "default" else ROPE_INIT_FUNCTIONS[module.rope_type]
            with single_means_double():
                module.inv_freq, module.attention_scaling = init(module.config)
