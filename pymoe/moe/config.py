"""The settings of one MoE layer as frozen values, checked when they are made; the router's: ``router_config``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import ConfigError, check_integer
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.moe.router_config import Capacity, RouterConfig, one_of


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """One MoE layer: D = d_model, F = d_ff, the router, the form of the experts, and the shared expert.

    gated, activation   GLU: down(act(gate x) ⊙ up x), or MLP: down(act(up x)); names of ``kernels.activations``
    bias                biases inside the experts, the shared one too
    d_shared            width of the shared expert that every token passes (0: none)
    tied                for each of the E ids of the router the stored expert that it stands for, 0..G-1; None: its own.
                        The experts' parameters then have G matrices, and the gradient of one is the sum over its ids
    """

    d_model: int
    d_ff: int
    router: RouterConfig
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    d_shared: int = 0
    tied: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_integer("d_model", self.d_model)
        check_integer("d_ff", self.d_ff)
        check_integer("d_shared", self.d_shared, 0)
        one_of("activation", self.activation, tuple(sorted(ACTIVATIONS)))
        if self.tied is not None:
            self._check_tied(self.tied)

    def _check_tied(self, tied: Any) -> None:
        ids = tuple(tied)
        for i in ids:
            check_integer("each entry of tied", i, 0)
        object.__setattr__(self, "tied", tuple(int(i) for i in ids))
        if len(ids) != self.n_experts or set(ids) != set(range(max(ids) + 1)):
            raise ConfigError(
                f"tied must give each of the {self.n_experts} ids of the router a stored expert, and name every stored "
                f"expert from 0 on, got {ids}"
            )

    @property
    def n_stored(self) -> int:
        """G: how many experts are stored; E unless some are tied."""
        return self.n_experts if self.tied is None else max(self.tied) + 1

    @property
    def n_experts(self) -> int:
        return self.router.n_experts

    @property
    def k(self) -> int:
        return self.router.k

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a rule that is a module of the caller's cannot be written."""
        for field in ("score", "select"):
            if not isinstance(getattr(self.router, field), str):
                raise ConfigError(
                    f"only named rules can be written to a file; {field} is {getattr(self.router, field)!r}"
                )
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MoEConfig:
        """The inverse of ``to_dict``."""
        router = dict(values["router"])
        if router.get("capacity") is not None:
            router["capacity"] = Capacity(**router["capacity"])
        router["losses"] = tuple(router["losses"])
        tied = values.get("tied")
        return cls(**{**values, "router": RouterConfig(**router), "tied": None if tied is None else tuple(tied)})
