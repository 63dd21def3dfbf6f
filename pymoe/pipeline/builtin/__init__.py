"""Data to try on without a file of one's own: from inside installed libraries, and a small set written for pymoe.

==========  ======================================================================================================
languages   which of ten languages a name is in: territories, languages, currencies of the CLDR in Babel
docstrings  which topic a module of Python's standard library belongs to, by the docstrings in it
sentiment   a small hand-written set for demonstration: English and Chinese, positive, neutral, negative
==========  ======================================================================================================
"""

from __future__ import annotations

import hashlib
import importlib

from pymoe.backend.errors import ConfigError
from pymoe.pipeline.columns import Table

SETS = {
    "languages": "which of ten languages the name of a country, a language or a currency is in (Babel's CLDR)",
    "docstrings": "the topic of a docstring of Python's standard library",
    "sentiment": "a small hand-written set for demonstration, English and Chinese",
}
PREFIX = "built-in: "


def load(name: str) -> Table:
    """The table of a set: text, label, group.

    >>> table = load("sentiment")
    >>> sorted({*table.labels}), sorted({*table.groups})
    (['negative', 'neutral', 'positive'], ['Chinese', 'English'])
    """
    if name not in SETS:
        raise ConfigError(f"--data must be one of {', '.join(SETS)}, got {name!r}")
    rows = importlib.import_module(f"pymoe.pipeline.builtin.{name}").rows()
    texts, labels, groups = (list(part) for part in zip(*rows, strict=True))
    raw = "\n".join("\t".join(row) for row in rows).encode()
    names = {"text": "text", "label": "label", "group": "group"}
    lines = list(range(1, len(rows) + 1))
    return Table(PREFIX + name, hashlib.sha256(raw).hexdigest(), texts, labels, groups, lines, names, (SETS[name],))
