"""The gradient checks of the field by their formulas, on one subject, with everything but the backward worked out once.

================ ==================================================================================================
torch slow       central differences, step 1e-6, each element of each Jacobian: |a - n| <= 1e-5 + 1e-3 |n|
torch fast       vᵀ J u for one non-negative unit pair (u, v) a tensor, atol 1e-5 scaled by Σu Σv, rtol 1e-3
JAX              ⟨t, vjp(c)⟩ = ⟨c, jvp by central difference, step 1e-4⟩, one direction, atol = rtol = 1e-5
Taylor           the remainder along one direction, jointly and by tensor, falls with order >= 1.95
complex step     the full Jacobian within 1e-13 of each tensor's maximum: ``gradcheck``
================ ==================================================================================================

The first three are written from the documented behaviour and defaults of torch.autograd.gradcheck (2.13),
jax.test_util.check_grads (0.10, tolerance as in JAX's own float64 tests).
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import GradientError
from pymoe.verify import complex_step, cotangents, frame, remainder
from pymoe.verify.report import judge
from pymoe.verify.subjects import Flat, Subject

NAMES = ("torch slow", "torch fast", "JAX", "Taylor", "complex step")


class Detectors:
    """``caught(jacobian)`` says of an analytic Jacobian which checks refuse it."""

    def __init__(self, s: Subject, seed: int = 0) -> None:
        self.subject, self.seed = s, seed
        self.values = s.values
        self.at, _, _ = frame.check(s, seed)
        self.groups = cotangents.basis(self.at.outputs)
        self.exact = complex_step.reference(s, self.values, self.groups, self.at)
        self.central = complex_step.columns(self.values, self.groups, self._central)
        rng = np.random.default_rng([seed, 9])
        self.ct = cotangents.one(rng, self.at.outputs)
        self.tangent = {k: rng.standard_normal(v.shape) for k, v in self.values.items()}
        self.jvp = self._difference(self.tangent, 1e-4)
        self.pairs = {key: self._pair(rng, *key) for key in self.exact}
        self.changes = self._taylor_changes()

    def jacobian(self) -> dict[tuple[str, str], np.ndarray]:
        """By the backward as it is now (mutated or not), from the cache of the right forward."""
        return complex_step.analytic(self.subject, self.values, self.groups, self.at)

    def caught(self, jacobian: dict[tuple[str, str], np.ndarray]) -> dict[str, bool]:
        checks = (self._torch_slow, self._torch_fast, self._jax, self._taylor, self._complex)
        return {name: not passes(jacobian) for name, passes in zip(NAMES, checks, strict=True)}

    # --- what each accepts -------------------------------------------------------------------------------------------

    def _torch_slow(self, j: dict[tuple[str, str], np.ndarray]) -> bool:
        return all(np.allclose(j[key], n, rtol=1e-3, atol=1e-5) for key, n in self.central.items())

    def _torch_fast(self, j: dict[tuple[str, str], np.ndarray]) -> bool:
        for key, (u, v, numeric) in self.pairs.items():
            if not np.allclose(v @ j[key] @ u, numeric, rtol=1e-3, atol=1e-5 * np.sum(u) * np.sum(v)):
                return False
        return True

    def _jax(self, j: dict[tuple[str, str], np.ndarray]) -> bool:
        slope = sum(np.sum(g * self.tangent[name]) for name, g in self._vjp(j).items())
        wanted = sum(np.sum(self.ct[o] * d) for o, d in self.jvp.items())
        return bool(np.allclose(slope, wanted, rtol=1e-5, atol=1e-5))

    def _taylor(self, j: dict[tuple[str, str], np.ndarray]) -> bool:
        g = self._vjp(j)
        scale = sum(float(np.sum(np.abs(self.ct[o] * y))) for o, y in self.at.outputs.items())
        for label, changes in self.changes.items():
            names = list(g) if label == "(jointly)" else [label]
            slope = sum(float(np.sum(g[n] * self.tangent[n])) for n in names)
            r = [abs(change - t * slope) for t, change in changes]
            if max(r) <= remainder.LINEAR * scale:
                continue
            if r[-1] == 0.0 or np.log2(r[-2] / r[-1]) < 1.95:
                return False
        return True

    def _complex(self, j: dict[tuple[str, str], np.ndarray]) -> bool:
        try:
            judge(complex_step.blocks(self.values, j, self.exact), 1e-13, self.subject.name, "complex step", self.seed)
        except GradientError:
            return False
        return True

    # --- what they compare with --------------------------------------------------------------------------------------

    def _vjp(self, j: dict[tuple[str, str], np.ndarray]) -> Flat:
        out: Flat = {name: np.zeros(v.shape) for name, v in self.values.items()}
        for (o, name), block in j.items():
            out[name] = out[name] + (self.ct[o].reshape(-1) @ block).reshape(out[name].shape)
        return out

    def _moved(self, direction: Flat, t: float) -> Flat:
        moved = {k: complex_step.frozen(v + t * direction[k]) if k in direction else v for k, v in self.values.items()}
        return self.subject.forward(moved).outputs

    def _difference(self, direction: Flat, step: float) -> Flat:
        a, b = self._moved(direction, step / 2), self._moved(direction, -step / 2)
        return {o: (a[o] - b[o]) / step for o in a}

    def _central(self, name: str, i: int) -> Flat:
        unit = np.zeros(self.values[name].shape)
        unit.reshape(-1)[i] = 1.0
        return self._difference({name: unit}, 2e-6)

    def _pair(self, rng: np.random.Generator, output: str, name: str) -> tuple[np.ndarray, np.ndarray, float]:
        u, v = rng.random(self.values[name].size), rng.random(self.at.outputs[output].size)
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
        change = self._difference({name: u.reshape(self.values[name].shape)}, 2e-6)[output]
        return u, v, float(v @ change.reshape(-1))

    def _taylor_changes(self) -> dict[str, list[tuple[float, float]]]:
        table = {}
        for label in ("(jointly)", *self.values):
            direction = self.tangent if label == "(jointly)" else {label: self.tangent[label]}
            rows = []
            for i in range(8):
                t = 1e-3 / 2**i
                y = self._moved(direction, t)
                rows.append((t, sum(float(np.sum(self.ct[o] * (y[o] - y0))) for o, y0 in self.at.outputs.items())))
            table[label] = rows
        return table
