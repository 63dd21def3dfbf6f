"""Verification: is a hand-written backward the derivative of its forward?  Answered to 1e-13, with negative controls.

================ ====================================================================================================
``gradcheck``    complex step, every tensor: full Jacobian, gradient vectors or directions, by size
``directional``  complex step along random directions, for models of a million parameters
``differences``  fourth-order differences in long double: a judge that needs no complex arithmetic
``taylor``       order of the remainder, for documents
``adjoint``      ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ exactly, on integers, for linear maps
``identities``   backward(0) = 0, backward(-G), backward(2^m G), Euler, purity, keys, shapes, dtypes
``controls``     breaks the backward on purpose and demands that a check sees it
``mutate``       breaks the source line by line and demands that the tests see it (``pymoe.verify.mutate``)
================ ====================================================================================================

>>> import numpy as np
>>> from pymoe import verify
>>> from pymoe.ops import swiglu
>>> verify.gradcheck(swiglu, np.random.default_rng(0).standard_normal((3, 8))).error < 1e-13
True
"""

from pymoe.verify.check import gradcheck
from pymoe.verify.directions import directional
from pymoe.verify.quotients import differences
from pymoe.verify.remainder import Taylor, taylor
from pymoe.verify.report import DecisionError, Report
from pymoe.verify.structure import identities
from pymoe.verify.subjects import Subject, subject
from pymoe.verify.tampering import Controls, controls
from pymoe.verify.transpose import adjoint

__all__ = [
    "Controls",
    "DecisionError",
    "Report",
    "Subject",
    "Taylor",
    "adjoint",
    "controls",
    "differences",
    "directional",
    "gradcheck",
    "identities",
    "subject",
    "taylor",
]
