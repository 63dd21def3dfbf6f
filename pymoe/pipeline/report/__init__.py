"""A report on a classifier: measured (``measure``), as text for a terminal, as one HTML file, as pictures."""

from __future__ import annotations
