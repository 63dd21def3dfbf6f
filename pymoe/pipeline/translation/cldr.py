"""Pairs that ship inside a library: names and dates in two languages, from the Unicode CLDR in Babel.

Names of territories, languages, scripts and currencies in both locales, each once, and dates, days of 1900 to 2099
drawn by the seed, in a format drawn for each; both sides in the same one.  Held out are every tenth name and date.  A
name can be learned where it is built like others ("Chilean Peso"), and must be guessed where it is not; a date is a
rule.  So the two are scored apart.
"""

from __future__ import annotations

import datetime
import re
from typing import Any, NamedTuple

from pymoe.backend.errors import ConfigError, MissingExtraError, install
from pymoe.backend.rng import generator
from pymoe.pipeline.translation.pairs import Pairs

PREFIX = "cldr:"
DATES = 2000
KINDS = ("territories", "languages", "scripts", "currencies")
FORMATS = ("full", "long", "medium")
_DRAW = 6  # the key of this use of the generator


class Parts(NamedTuple):
    """What is trained on, and what is held out by kind."""

    train: Pairs
    dates: Pairs
    names: Pairs

    @property
    def held_out(self) -> Pairs:
        """Dates and names together, mixed."""
        both = Pairs(self.dates.source + self.names.source, self.dates.target + self.names.target, self.train.where)
        return both.take(generator(0, _DRAW).permutation(len(both)))


def load(pair: str = "en-de", *, seed: int = 0, dates: int = DATES) -> Parts:
    """The pairs of two locales, such as "en-de" or "en-zh"; ConfigError if Babel does not have one of them."""
    codes = pair.split("-")
    if len(codes) != 2 or not all(re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+)*", code) for code in codes) or len({*codes}) < 2:
        raise ConfigError(
            f"the pair of languages must be two locales of Babel, such as en-de or en-pt_BR, got {pair!r}"
        )
    one, two = (_locale(code, pair) for code in codes)
    names: dict[str, str] = {}
    for kind in KINDS:
        here, there = getattr(one, kind), getattr(two, kind)
        for key in sorted(set(here) & set(there)):
            names.setdefault(str(here[key]), str(there[key]))
    rng = generator(seed, _DRAW)
    first = datetime.date(1900, 1, 1)
    days: dict[str, str] = {}
    while len(days) < dates:
        day = first + datetime.timedelta(days=int(rng.integers(0, 73049)))  # to the end of 2099
        style = FORMATS[int(rng.integers(0, len(FORMATS)))]
        days.setdefault(_format(day, style, one), _format(day, style, two))
    source = (f"{PREFIX}{pair}",)

    def part(found: dict[str, str], held: bool) -> Pairs:
        """Every tenth of a drawn order, or the others."""
        order = [list(found.items())[int(i)] for i in generator(seed, _DRAW, len(found)).permutation(len(found))]
        chosen = [item for i, item in enumerate(order) if (i % 10 == 0) == held]
        return Pairs(tuple(s for s, _ in chosen), tuple(t for _, t in chosen), source)

    seen = part(names, False), part(days, False)
    train = Pairs(seen[0].source + seen[1].source, seen[0].target + seen[1].target, source)
    return Parts(train, part(days, True), part(names, True))


def _format(day: datetime.date, style: str, locale: Any) -> str:
    from babel.dates import format_date

    return str(format_date(day, style, locale=locale))


def _locale(code: str, pair: str) -> Any:
    try:
        import babel
    except ImportError as error:
        raise MissingExtraError(
            f"the built-in names and dates come from Babel ({error}): {install('examples')}, or give files of your own"
        ) from None
    try:
        return babel.Locale.parse(code)
    except (babel.UnknownLocaleError, ValueError):
        raise ConfigError(
            f"the pair {pair!r}: Babel has no locale {code!r}; `python -c 'import babel.localedata as l; "
            "print(l.locale_identifiers())'` prints those it has"
        ) from None
