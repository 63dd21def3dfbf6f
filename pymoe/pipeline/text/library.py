"""The libraries of the extra ``text``, imported when they are first needed."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

from pymoe.backend.errors import MissingExtraError, install


@functools.cache
def load(name: str, what: str) -> Any:
    """The module ``name``; ``what`` says in the error what needs it.

    >>> load("json", "A settings file").dumps([1])
    '[1]'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba has escapes that Python 3.12 warns of when it compiles them
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{what} needs the library {name} ({error}): {install('text')}") from None
