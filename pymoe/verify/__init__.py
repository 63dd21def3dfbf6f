"""Verification: is a hand-written backward the derivative of its forward?  Answered to 1e-13, with negative controls.

>>> import numpy as np
>>> from pymoe import verify
>>> from pymoe.ops import swiglu
>>> verify.gradcheck(swiglu, np.random.default_rng(0).standard_normal((3, 8))).error < 1e-13
True
"""

from pymoe.verify.check import gradcheck
from pymoe.verify.directions import directional
from pymoe.verify.report import DecisionError, Report
from pymoe.verify.subjects import Subject, subject
from pymoe.verify.tampering import Controls, controls

__all__ = ["Controls", "DecisionError", "Report", "Subject", "controls", "directional", "gradcheck", "subject"]
