"""Lists of strings as arrays, so that they can be stored beside the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pack(name: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    """{name: the UTF-8 of all, name.ends: where each ends}.

    >>> pack("words", ["no", "天"])
    {'words': array([110, 111, 229, 164, 169], dtype=uint8), 'words.ends': array([2, 5])}
    """
    parts = [s.encode("utf-8", "surrogatepass") for s in strings]
    ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
    return {name: np.frombuffer(b"".join(parts), np.uint8).copy(), f"{name}.ends": ends}


def unpack(name: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """The list that was packed under ``name``.

    >>> unpack("words", pack("words", ["no", "", "天"]))
    ['no', '', '天']
    """
    whole, ends = arrays[name].tobytes(), arrays[f"{name}.ends"].tolist()
    return [whole[lo:hi].decode("utf-8", "surrogatepass") for lo, hi in zip([0, *ends], ends, strict=False)]
