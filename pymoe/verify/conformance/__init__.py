"""``python -m pymoe.verify.conformance``: what is proved of every named rule and published model, measured anew.

The page is made of measurements, never typed: a row that was not measured is not there, and a row whose error passes
its bound makes the command fail.  It needs the source tree, because the oracles live with the tests.

>>> from pymoe.verify.conformance import Measured
>>> Measured("mixtral", "preset", "arXiv:2401.04088", 1e-16, 2e-16, "tests/oracles", "transformers: mixtral").passes
True
"""

from pymoe.verify.conformance.page import page
from pymoe.verify.conformance.rows import Block, Defect, Measured

__all__ = ["Block", "Defect", "Measured", "page"]
