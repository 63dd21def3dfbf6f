"""transformers in float64 all through, or an error: its routers cast to float32 whatever the model's dtype is.

``Precise`` is a mode of torch: every call that asks for float32 gets float64 instead, and a call that gives any other
floating dtype all the same is an AssertionError that names the function.  It also watches the decisions: the smallest
distance between the last chosen and the first not chosen value of every top-k and argmax, ``margin``.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.overrides import TorchFunctionMode, resolve_name  # noqa: E402

_TOPK = {torch.topk, torch.Tensor.topk}
_ARGMAX = {torch.argmax, torch.Tensor.argmax}


class Precise(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.margin = float("inf")
        self.answered = 0  # how many casts would have lost the digits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = torch.float32 in [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
        if asked or func is torch.Tensor.float:
            self.answered += 1
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {n: torch.float64 if a is torch.float32 else a for n, a in kwargs.items()}
            func = torch.Tensor.double if func is torch.Tensor.float else func
        if func in _TOPK:
            k = args[1] if len(args) > 1 else kwargs["k"]
            self._watch(args[0], k, args[2] if len(args) > 2 else kwargs.get("dim", -1))
        elif func in _ARGMAX:
            self._watch(args[0], 1, args[1] if len(args) > 1 else kwargs.get("dim", -1))
        out = func(*args, **kwargs)
        for found in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(found, torch.Tensor) and found.is_floating_point() and found.dtype != torch.float64:
                raise AssertionError(f"{resolve_name(func)} gave {found.dtype}: a cast slipped through")
        return out

    def _watch(self, values: Any, k: int, dim: int) -> None:
        """How near the choice is to another one; equal values that are both masked decide nothing."""
        ranked = values.detach().double().sort(dim=dim, descending=True).values
        if k < ranked.shape[dim]:
            last, next_ = ranked.select(dim, k - 1), ranked.select(dim, k)
            gap = (last - next_)[torch.isfinite(last)]
            if gap.numel():
                self.margin = min(self.margin, float(gap.min()))
