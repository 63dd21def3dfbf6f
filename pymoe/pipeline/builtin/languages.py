"""Names of territories, languages and currencies in ten languages, from the Unicode CLDR in Babel.

A name that several of the languages share ("Angola") has no one answer and is left out.
"""

from __future__ import annotations

from collections import Counter

from pymoe.backend.errors import MissingExtraError, install

LANGUAGES = {
    "cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French", "it": "Italian",
    "nl": "Dutch", "pl": "Polish", "zh": "Chinese",
}  # fmt: skip
KINDS = ("territories", "languages", "currencies")


def rows() -> list[tuple[str, str, str]]:
    """(name, language, kind), in a fixed order."""
    try:
        from babel import Locale
    except ImportError as error:
        raise MissingExtraError(
            f"the names come from Babel ({error}): {install('examples')}, or use --data sentiment"
        ) from None
    found: dict[tuple[str, str], str] = {}
    for code, language in LANGUAGES.items():
        locale = Locale.parse(code)
        for kind in KINDS:
            names = getattr(locale, kind)
            for key in sorted(names):
                if len(names[key]) > 2 or code == "zh":
                    found.setdefault((str(names[key]), language), kind)
    times = Counter(name.casefold() for name, _ in found)
    return [(name, language, kind) for (name, language), kind in found.items() if times[name.casefold()] == 1]
