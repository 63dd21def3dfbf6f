"""What happens inside an expert between its two matrices: the activation and everything round it, as frozen values."""

from __future__ import annotations

import dataclasses

from pymoe.backend.errors import ConfigError
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe.router_checks import finite, one_of


@dataclasses.dataclass(frozen=True)
class Form:
    """h of the pre-activations a: act(g) ⊙ u with a = [g | u] where ``gated``, else act(a).

    limit, clamp   g <= limit and u in [-limit, limit], the gate clamped "before" or "after" the activation; None: not
    gate_alpha     act(g) = g σ(alpha g), silu only (gpt-oss: 1.702)
    up_offset      u + offset, after the clamp (gpt-oss: 1)
    softcap        (c, C): g σ(g) becomes c tanh(g/c) σ(g), u becomes C tanh(u/C); silu only, in the place of a limit

    Formulas of both directions and sources: ``pymoe.ops.gated``.  All but the activation need a gate.

    >>> Form(limit=7.0, gate_alpha=1.702, up_offset=1.0).plain, Form("gelu").plain
    (False, True)
    """

    activation: str = "silu"
    gated: bool = True
    limit: float | None = None
    clamp: str = "before"
    gate_alpha: float = 1.0
    up_offset: float = 0.0
    softcap: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        one_of("activation", self.activation, tuple(sorted(ACTIVATIONS)))
        one_of("clamp", self.clamp, ("before", "after"))
        finite("gate_alpha", self.gate_alpha)
        finite("up_offset", self.up_offset)
        if self.limit is not None:
            self._positive("limit", self.limit)
        if self.softcap is not None:
            caps = tuple(self.softcap)
            if len(caps) != 2:
                raise ConfigError(f"softcap must be the two caps (of the gate, of up) or None, got {self.softcap!r}")
            for cap in caps:
                self._positive("softcap", cap)
            object.__setattr__(self, "softcap", caps)
            if self.limit is not None:
                raise ConfigError("a soft cap and a clamp bound the same values: give limit or softcap, not both")
        if self.activation != "silu" and (self.gate_alpha != 1 or self.softcap is not None):
            raise ConfigError(
                f"gate_alpha and softcap are parts of g σ(alpha g), activation='silu'; got {self.activation!r}"
            )
        if not self.gated and not self.plain:
            raise ConfigError("limit, gate_alpha, up_offset and softcap are those of a gated expert: got gated=False")

    @staticmethod
    def _positive(name: str, value: float) -> None:
        finite(name, value)
        if value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value!r}; None leaves it out")

    @property
    def plain(self) -> bool:
        """Nothing but the activation and the gate: what the fused kernels compute."""
        return self.limit is None and self.softcap is None and self.gate_alpha == 1 and self.up_offset == 0


@dataclasses.dataclass(frozen=True)
class Norm:
    """A root-mean-square norm: ``eps`` and where its weight goes.

    scale "output": x / √(mean(x²) + ε) ⊙ w (``ops.rms_norm``); "input": the norm of x ⊙ w (``ops.scaled_rms_norm``).
    A checkpoint whose weights are centred, 1 + w, is loaded with 1 + w; the gradient is the same.

    >>> Norm(1e-6).scale
    'output'
    """

    eps: float = 1e-6
    scale: str = "output"

    def __post_init__(self) -> None:
        finite("the eps of a norm", self.eps, 0)
        one_of("the scale of a norm", self.scale, ("output", "input"))
