"""Text into codes: cleaned, cut into tokens, counted.

``clean`` -> ``tokenize`` -> ``stop_words`` out -> ``TextEncoder`` (sparse rows) or ``TextIds`` (padded ids).
"""

from __future__ import annotations

from pymoe.pipeline.text.cleaning import clean
from pymoe.pipeline.text.stopping import languages, stop_words
from pymoe.pipeline.text.tokens import tokenize

__all__ = ["clean", "languages", "stop_words", "tokenize"]
