"""The rows a classifier was scored on, kept beside it as ``held_out.jsonl``: what a report is made of."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np

from pymoe.backend.errors import CheckpointError
from pymoe.io import atomic
from pymoe.pipeline.columns import Table

NAME = "held_out.jsonl"


def write(folder: str, table: Table, classes: list[str], p: np.ndarray) -> str:
    """Write text, label, group, answer and its probability p (N, C) of each row; returns the file's SHA-256."""
    assert table.labels is not None
    lines = []
    for i, text in enumerate(table.texts):
        best = int(p[i].argmax())
        row: dict[str, Any] = {"line": table.lines[i], "text": text, "label": table.labels[i]}
        if table.groups is not None:
            row["group"] = table.groups[i]
        row |= {"predicted": classes[best], "probability": round(float(p[i, best]), 6)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    data = "".join(lines).encode("utf-8", "surrogatepass")
    atomic.write(os.path.join(folder, NAME), [data])
    return hashlib.sha256(data).hexdigest()


def read(folder: str, about: dict[str, Any]) -> Table:
    """The rows again, as the table they came from; ``about``: what the model folder says of them."""
    path = os.path.join(folder, NAME)
    if not about.get("held_out_sha256"):
        raise CheckpointError(
            f"{folder}: training held nothing out: give a table, `pymoe classify report {folder} FILE`"
        )
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} lacks {NAME}: copy the whole folder, or give a table: `pymoe classify report {folder} FILE`"
        ) from None
    if hashlib.sha256(data).hexdigest() != about["held_out_sha256"]:
        raise CheckpointError(
            f"{path} is not as training wrote it (its SHA-256 differs): use another copy, or give a table: `pymoe "
            f"classify report {folder} FILE`"
        )
    rows = [json.loads(line) for line in data.decode("utf-8", "surrogatepass").split("\n") if line]
    groups = [row["group"] for row in rows] if rows and "group" in rows[0] else None
    where = f"the held-out rows of {about['data']['where']}"
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    lines = [row["line"] for row in rows]
    return Table(where, about["held_out_sha256"], texts, labels, groups, lines, about["columns"], ())
