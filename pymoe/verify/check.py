"""``gradcheck``: is this hand-written backward the derivative of its forward?  To 1e-13 or it raises."""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.verify import complex_step, cotangents, directions, frame, tampering
from pymoe.verify.report import Report, judge
from pymoe.verify.subjects import Subject, subject

MODES = ("auto", "jacobian", "gradient", "directional")


def gradcheck(
    target: Any,
    *args: Any,
    seed: int = 0,
    tolerance: float = 1e-13,
    mode: str = "auto",
    losses: list[str] | tuple[str, ...] | None = None,
    controls: bool = False,
    **static: Any,
) -> Report:
    """Check ``target.backward`` against the complex step of ``target.forward`` at ``args``, every tensor by itself.

    target: an op module, a layer or model module, or anything with ``forward`` and ``backward``
    (``pymoe.verify.subjects`` has the conventions).  Positional floating-point arrays and trees are differentiated, in
    float64; all else is passed through.  Modes, chosen by size unless given:

    - ``jacobian``: every element of every output against every element of every input (<= 1,500 x 400);
    - ``gradient``: complete gradient vectors for three random cotangents, and one for each output alone (<= 3,000);
    - ``directional``: five random directions, jointly and by tensor, any size (``pymoe.verify.directions``).

    Each gradient must agree within ``tolerance`` of its largest reference entry.  Also refused: missing or unexpected
    keys, wrong shapes and dtypes (float32 is tried as well), a lost imaginary part, writing into arguments, cache or
    cotangent, calling twice with different bits, decisions that the complex evaluation takes differently.
    ``controls=True`` breaks each gradient by 0.1 % and more (``pymoe.verify.tampering``) and demands that this is seen.

    Returns a ``Report``; ``.error`` is what was measured.  Raises GradientError with the gradient's name, both numbers,
    the worst position, the shape and the seed.

    >>> import numpy as np
    >>> from pymoe.ops import swiglu
    >>> report = gradcheck(swiglu, np.random.default_rng(0).standard_normal((3, 8)), controls=True)
    >>> report.mode, report.n_inputs, report.error < 1e-13
    ('jacobian', 24, True)
    """
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {MODES}, got {mode!r}")
    s = subject(target, *args, losses=losses, **static)
    values = s.values
    at, ct, gradients = frame.check(s, seed)
    if not isinstance(target, Subject):
        frame.dtypes(subject(target, *args, losses=losses, dtype=np.float32, **static))
    n_in, n_out = sum(v.size for v in values.values()), sum(y.size for y in at.outputs.values())
    if mode == "auto":
        mode = "jacobian" if n_in <= 1500 and n_out <= 400 else "gradient" if n_in <= 3000 else "directional"
    if mode == "directional":
        known: dict[tuple[str, int], float] = {}
        report = directions.compare(s, at, ct, gradients, seed, tolerance, 5, known)
        if not controls:
            return report
        caught = tampering.run(
            s, lambda b: directions.compare(b, at, ct, b.backward(ct, at.cache), seed, tolerance, 5, known), seed=seed
        )
        return _noted(report, str(caught))
    groups = (
        cotangents.basis(at.outputs)
        if mode == "jacobian"
        else cotangents.random(np.random.default_rng(seed), at.outputs)
    )
    expected = complex_step.reference(s, values, groups, at)

    def compare(b: Subject) -> tuple[dict[str, float], tuple[str, ...]]:
        found = complex_step.analytic(b, values, groups, at)
        return judge(complex_step.blocks(values, found, expected), tolerance, s.name, "complex step", seed)

    errors, zeros = compare(s)
    report = Report(s.name, mode, max(errors.values(), default=0.0), errors, tolerance, seed, n_in, n_out, zeros)
    return _noted(report, str(tampering.run(s, compare, seed=seed))) if controls else report


def _noted(r: Report, note: str) -> Report:
    return Report(
        r.subject, r.mode, r.error, r.errors, r.tolerance, r.seed, r.n_inputs, r.n_outputs, r.zeros, (*r.notes, note)
    )
