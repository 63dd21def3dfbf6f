"""The settings of one MoE layer as frozen values, checked when they are made; the router's: ``router_config``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import ConfigError, check_integer
from pymoe.moe.form import Form, Norm
from pymoe.moe.router_checks import one_of
from pymoe.moe.router_config import Capacity, RouterConfig

SHARED = ("add", "gated", "average", "joint")


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """One MoE layer: D = d_model, F = d_ff, the router, the form of the experts, and the shared experts.

    gated, activation   GLU: down(act(gate x) ⊙ up x), or MLP: down(act(up x)); names of ``kernels.activations``
    bias                biases inside the experts, the shared one too
    d_shared            width of the shared expert that every token passes (0: none); of several the sum of the widths
    tied                for each of the E ids of the router the stored expert that it stands for, 0..G-1; None: its own.
                        The experts' parameters then have G matrices, and the gradient of one is the sum over its ids
    limit, clamp, gate_alpha, up_offset, softcap     variants of the gated activation: ``moe.Form``
    weight_at           where a choice's weight goes: "output" | "input" (Llama 4) | "pre_down" (as fused kernels do)
    post_expert_norm    a ``moe.Norm`` of each expert's output before it is weighted (MuseSpark); None: none
    d_latent            width that the experts work in, between two projections (NemotronH, MuseSpark); 0: d_model
    latent_norm         a ``moe.Norm`` after the first of them;   latent_bias: biases of both
    shared              how the shared output joins: "add" | "gated" by σ(w x) (Qwen2) | "average" of it and the routed
                        sum (Cohere2) | "joint", n_shared experts weighted by the router (Inkling)
    n_shared            how many shared experts of equal width make up d_shared; only "joint" has to know
    shared_form         the ``moe.Form`` of the shared expert where it differs from that of the others; None: the same
    shared_bias         biases inside the shared expert; None: as ``bias``
    output_norm         a ``moe.Norm`` of the sum of routed and shared (A.X-K1);   output_bias: a bias on it (JetMoe)

    That an activation runs in float32 inside a model of bfloat16 (Beam) is no setting: here the dtype is that of the
    arrays, and in float64 both are the same.
    """

    d_model: int
    d_ff: int
    router: RouterConfig
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    d_shared: int = 0
    tied: tuple[int, ...] | None = None
    limit: float | None = None
    clamp: str = "before"
    gate_alpha: float = 1.0
    up_offset: float = 0.0
    softcap: tuple[float, float] | None = None
    weight_at: str = "output"
    post_expert_norm: Norm | None = None
    d_latent: int = 0
    latent_norm: Norm | None = None
    latent_bias: bool = False
    shared: str = "add"
    n_shared: int = 1
    shared_form: Form | None = None
    shared_bias: bool | None = None
    output_norm: Norm | None = None
    output_bias: bool = False

    def __post_init__(self) -> None:
        check_integer("d_model", self.d_model)
        check_integer("d_ff", self.d_ff)
        check_integer("d_shared", self.d_shared, 0)
        check_integer("d_latent", self.d_latent, 0)
        check_integer("n_shared", self.n_shared)
        object.__setattr__(self, "softcap", self.form.softcap)  # the form checks its own settings
        one_of("weight_at", self.weight_at, ("output", "input", "pre_down"))
        one_of("shared", self.shared, SHARED)
        for name in ("post_expert_norm", "latent_norm", "output_norm"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, Norm)):
                raise ConfigError(f"{name} must be a moe.Norm or None, got {value!r}")
        if self.weight_at == "pre_down" and self.post_expert_norm is not None:
            raise ConfigError("a norm takes out a weight that went in before it: leave weight_at='output'")
        if not self.d_latent and (self.latent_norm is not None or self.latent_bias):
            raise ConfigError("latent_norm and latent_bias belong to the projections of d_latent, which is 0: none")
        self._check_shared()
        if self.tied is not None:
            self._check_tied(self.tied)

    def _check_shared(self) -> None:
        if (self.shared == "joint") != (self.router.norm == "joint"):
            raise ConfigError(
                "shared='joint' takes its weights from a router of norm='joint', and only it does: "
                f"got shared={self.shared!r}, norm={self.router.norm!r}"
            )
        if self.shared == "joint" and self.n_shared != self.router.n_shared_logits:
            raise ConfigError(
                "a joint router has a logit for each shared expert: got "
                f"n_shared={self.n_shared}, n_shared_logits={self.router.n_shared_logits}"
            )
        if not (self.shared_form is None or isinstance(self.shared_form, Form)):
            raise ConfigError(f"shared_form must be a moe.Form or None, got {self.shared_form!r}")
        if not self.d_shared:
            if self.shared != "add" or self.n_shared != 1 or self.shared_form or self.shared_bias is not None:
                raise ConfigError(
                    "shared, n_shared, shared_form and shared_bias describe a shared expert: d_shared is 0"
                )
            return
        if self.d_shared % self.n_shared:
            raise ConfigError(
                f"n_shared shared experts have equal widths: {self.n_shared} do not divide d_shared={self.d_shared}"
            )
        if self.shared == "joint" and self.bias_of_shared:
            raise ConfigError(
                "shared='joint' weighs before the way down, where a bias would stay unweighted: no biases"
            )

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
    def form(self) -> Form:
        """What happens inside an expert between its matrices."""
        return Form(self.activation, self.gated, self.limit, self.clamp, self.gate_alpha, self.up_offset, self.softcap)

    @property
    def form_of_shared(self) -> Form:
        """The same of the shared expert."""
        return self.form if self.shared_form is None else self.shared_form

    @property
    def bias_of_shared(self) -> bool:
        return self.bias if self.shared_bias is None else self.shared_bias

    @property
    def d_expert(self) -> int:
        """The width that the experts read and write: d_latent, or d_model where there is no latent space."""
        return self.d_latent or self.d_model

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
        read: dict[str, Any] = {**values, "router": RouterConfig(**router)}
        kinds = {"post_expert_norm": Norm, "latent_norm": Norm, "output_norm": Norm, "shared_form": Form}
        for name, kind in kinds.items():
            if read.get(name) is not None:
                read[name] = kind(**read[name])
        for name in ("tied", "softcap"):
            if read.get(name) is not None:
                read[name] = tuple(read[name])
        return cls(**read)
