"""Write a file so that a crash, a kill -9, a power cut or a full disk leaves either the old file or the new one.

The order matters (verified by failing every single call, ``tests/io/test_atomic.py``)::

    write .name.PID.RANDOM.tmp in the same folder -> fsync(file) -> rename over name -> fsync(folder)

Without the first fsync a power cut can leave a file of the right name and of half its bytes; without the second one the
new name may not be there.  Temporary files of killed processes are removed by ``sweep``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")
LONGEST_WRITE = 1 << 30


def write(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Replace the file ``path`` by the concatenated ``chunks``, or leave it as it was and raise OSError.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/a", [b"one", b"two"])
    ...     os.listdir(folder), pathlib.Path(folder, "a").read_bytes()
    (['a'], b'onetwo')
    """
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            for chunk in chunks:
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, os.path.join(folder, name))
        sync_folder(folder)
    except BaseException as error:  # also KeyboardInterrupt: no half-written file stays behind
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = os.fspath(path)  # os.write and os.fsync do not know it
            error.filename2 = None
        raise


def write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    """``os.write`` may take only a part (a signal, an almost full disk): go on until all bytes are out.

    No call gets more than 1 GiB: macOS refuses 2 GiB and more.
    """
    rest = memoryview(chunk).cast("B")
    while len(rest):
        rest = rest[os.write(descriptor, rest[:LONGEST_WRITE]) :]


def sync_folder(folder: str) -> None:
    """Make a rename durable.  File systems that cannot fsync a folder say EINVAL; there is nothing more to do there."""
    if os.name == "nt":  # Windows has no descriptor of a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sweep(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed writers left in ``folder`` and return the names; call it while holding the folder's lock."""
    stale = [name for name in sorted(os.listdir(folder)) if _TEMPORARY.fullmatch(name)]
    for name in stale:
        os.unlink(os.path.join(folder, name))
    return stale
