"""What was found wrong in other implementations: each with the lines that show it and what they print."""

from __future__ import annotations

from pymoe.verify.conformance.rows import Defect

DEFECTS: tuple[Defect, ...] = ()
