"""How a failure of the system is said to a user: one line, with what to do."""

from __future__ import annotations

import errno
import sys


def say(message: str) -> None:
    """One line on stderr, whatever is in the message."""
    print("pymoe: error: " + " ".join(message.split()), file=sys.stderr)


def system(error: OSError) -> str:
    """The cause and the cure of an OSError."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}the disk is full ({error.strerror}): free some space; all earlier files are untouched"
    return f"{where}{error.strerror or error}: check the path, its permissions and the disk"
