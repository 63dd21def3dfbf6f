"""Settings of a transformer of texts as JSON and back, and as what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.pipeline.text.preparation import Preparation

_SHARED = ("clean", "lowercase", "tokens", "punctuation", "stop_words", "bpe_size")


def preparation(estimator: Any) -> Preparation:
    """What cuts the texts of an estimator that has the shared settings."""
    return Preparation(**{name: getattr(estimator, name) for name in _SHARED})


def to_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sets, tuples and NumPy's numbers as what JSON has.

    >>> to_json({"ngrams": (1, 2), "stop_words": {"b", "a"}, "clean": True})
    {'ngrams': [1, 2], 'stop_words': {'words': ['a', 'b']}, 'clean': True}
    """
    return {name: _plain(value) for name, value in settings.items()}


def from_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``to_json`` was given; lists are tuples.

    >>> from_json({"ngrams": [1, 2], "stop_words": {"words": ["a", "b"]}}) == {
    ...     "ngrams": (1, 2), "stop_words": frozenset({"a", "b"})
    ... }
    True
    """
    found: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    stop = settings.get("stop_words")
    if isinstance(stop, Mapping):
        found["stop_words"] = frozenset(stop["words"])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return {"words": sorted(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # a NumPy number, as a grid over np.arange gives, or an array
        return _plain(value.tolist())
    return value
