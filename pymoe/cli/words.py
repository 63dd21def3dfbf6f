"""How a failure of the system is said to a user: one line, with what to do."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator, Mapping


def say(message: str) -> None:
    """One line on stderr, whatever is in the message."""
    print("pymoe: error: " + " ".join(message.split()), file=sys.stderr)


def in_options(message: str, options: Mapping[str, str]) -> str:
    """``message`` in the words of who typed the command: each field, also as Class.field, becomes its option.

    >>> in_options("Sampling.top_k must be an integer of at least 1, got 0", {"top_k": "--top-k"})
    '--top-k must be an integer of at least 1, got 0'
    """
    names = "|".join(map(re.escape, options))
    return re.sub(rf"(?<![-.\w'])(?:[A-Z]\w*\.)?({names})(?![\w'])", lambda found: options[found[1]], message)


@contextlib.contextmanager
def options(names: Mapping[str, str]) -> Iterator[None]:
    """Settings are made here from options: what the library says of a field is said of its option."""
    from pymoe.backend.errors import ConfigError  # here: it imports NumPy, before which blas_core must choose

    try:
        yield
    except ConfigError as error:
        raise ConfigError(in_options(str(error), names)) from None


def system(error: OSError) -> str:
    """The cause and the cure of an OSError."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}the disk is full ({error.strerror}): free some space; all earlier files are untouched"
    return f"{where}{error.strerror or error}: check the path, its permissions and the disk"
