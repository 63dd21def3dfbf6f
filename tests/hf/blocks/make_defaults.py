"""Write ``pymoe/hf/blocks/defaults.py``: what transformers takes a field for that a config.json leaves out.

Run as ``python -m tests.hf.blocks.make_defaults`` where transformers is installed.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import textwrap
from pathlib import Path
from typing import Any

import pymoe
from tests.hf.blocks.fields import FIELDS
from tests.hf.blocks.rows import ROWS

FILE = Path(pymoe.__file__).parent / "hf" / "blocks" / "defaults.py"
HEADER = '''"""What a field means that a config.json leaves out: written by ``tests/hf/blocks/make_defaults.py``.

Source: the config classes of transformers {version}; a test compares this file with the installed ones.
"""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = '''


def defaults() -> dict[str, dict[str, Any]]:
    """Family -> the fields of its config class that a block reads and that have a default."""
    found = {}
    for name, row in ((row.family or name, row) for name, row in ROWS.items()):
        module = importlib.import_module(f"transformers.models.{row.folder}.configuration_{row.folder}")
        kind = getattr(module, row.config)
        read = FIELDS | ({"vocab_size"} if name.startswith("deepseek_v4") else set())  # a row for each token id
        values = {f.name: default(kind, f) for f in dataclasses.fields(kind) if f.name in read}
        found[name] = {n: v for n, v in values.items() if v is not None}
    return found


def default(kind: Any, field: Any) -> Any:
    """What the field is in a config made without it, where one can be made; some are set by the class's own code."""
    try:
        value = getattr(kind(), field.name)
    except Exception:  # the class's own complaint: what it asks for has no default
        value = None if field.default is dataclasses.MISSING else field.default
    return value if isinstance(value, (bool, int, float, str)) else None


def main() -> None:
    import transformers

    lines = [HEADER.format(version=transformers.__version__) + "{"]
    for name, fields in sorted(defaults().items()):
        inside = ", ".join(f"{json.dumps(n)}: {v!r}".replace("'", '"') for n, v in sorted(fields.items()))
        text = f"{json.dumps(name)}: {{{inside}}},"
        lines += textwrap.wrap(text, 116, initial_indent="    ", subsequent_indent="        ", break_long_words=False)
    FILE.write_text("\n".join(lines) + "\n}  # fmt: skip\n")


if __name__ == "__main__":
    main()
