"""What a transformer of texts takes: a list of str, a 1-d array, a column of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pymoe.backend.errors import DataError


def as_texts(X: Any) -> list[str]:
    """``X`` as a list of str, or a DataError that says which text is none and what to do.

    >>> import numpy as np
    >>> as_texts(np.array(["one", "二"]))
    ['one', '二']
    >>> as_texts("one")
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.DataError: texts must be a list of str, got one str: write [text]
    """
    if isinstance(X, (str, bytes)):
        kind, write = ("str", "[text]") if isinstance(X, str) else ("bytes", "[text.decode('utf-8')]")
        raise DataError(f"texts must be a list of str, got one {kind}: write {write}")
    ndim = getattr(X, "ndim", 1)
    if ndim != 1:
        raise DataError(
            f"texts must be a list or one column of str, got {ndim} axes, shape {tuple(X.shape)}: choose the column of "
            f"the text, such as table['text'] or X[:, 0]"
        )
    if isinstance(X, (dict, set, frozenset)) or not isinstance(X, Iterable):
        raise DataError(f"texts must be a list of str, got {type(X).__name__}: give a list, in the order of the labels")
    texts = X.tolist() if isinstance(X, np.ndarray) else list(X)
    if not texts:
        raise DataError("there are no texts: give at least one")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {i} is {_what(text)}")
    return texts


def _what(text: Any) -> str:
    if text is None or text != text or type(text).__name__ in ("NAType", "NaTType"):
        return f"missing ({text!r}): drop the row, or write '' for it"
    if isinstance(text, (bytes, bytearray)):
        return "bytes: decode it first, such as text.decode('utf-8')"
    return f"no str but {type(text).__name__} ({text!r:.40}): is this the column of the text? str(...) makes it one"
