"""Models' prices, in dollars for a million tokens. A small table: give your own where it is old.

Source: https://platform.claude.com/docs/en/about-claude/pricing
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autopilot.errors import UsageError

_MILLION = 1_000_000
# Services append a date, a version, an alias or a variant to a model's name.
_BEHIND = re.compile(r"(?:[-@]\d{8}|-latest|-v\d+|:[\w.]+)+$")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call.

    Args:
        input_tokens: Read, without the cached ones.
        output_tokens: Written.
        cache_write_tokens: Read and put into the cache.
        cache_read_tokens: Read from the cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0

    @property
    def read(self) -> int:
        """All tokens read."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def tokens(self) -> int:
        """All tokens, read and written."""
        return self.read + self.output_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens.

    Args:
        input: Tokens read.
        output: Tokens written.
        cache_read: As a share of `input`.
        cache_write: As a share of `input`; for five minutes.
        long_from: Prompts of more tokens than this cost `long_factor` times as much; 0: none do.
        long_factor: See above.

    >>> Price(3, 15).cost(Usage(input_tokens=1_000_000, output_tokens=100_000))
    4.5
    """

    input: float
    output: float
    cache_read: float = 0.1
    cache_write: float = 1.25
    long_from: int = 0
    long_factor: float = 1.0

    def cost(self, usage: Usage) -> float:
        """Dollars for the tokens of one call."""
        read = (
            usage.input_tokens
            + usage.cache_write_tokens * self.cache_write
            + usage.cache_read_tokens * self.cache_read
        )
        factor = self.long_factor if self.long_from and usage.read > self.long_from else 1.0
        return factor * (read * self.input + usage.output_tokens * self.output) / _MILLION


PRICES: Mapping[str, Price] = {
    f"claude-{name}": price
    for price, names in (
        (Price(10, 50, cache_read=0.025), "fable-5-1 mythos-5-1"),
        (Price(10, 50), "fable-5 mythos-5"),
        (Price(4, 20, cache_read=0.05), "opus-5-5"),
        (Price(5, 25), "opus-5 opus-4-8 opus-4-7 opus-4-6 opus-4-5"),
        (Price(15, 75), "opus-4-1 opus-4 opus-4-0 3-opus"),
        (Price(2, 10, cache_read=0.05), "sonnet-5-5"),
        (Price(2, 10), "sonnet-5"),
        (Price(3, 15), "sonnet-4-6 sonnet-4-5 sonnet-4 sonnet-4-0 3-7-sonnet 3-5-sonnet"),
        (Price(0.1, 0.5, long_from=100_000, long_factor=5.0), "haiku-5-5"),
        (Price(1, 5), "haiku-4-5"),
        (Price(0.8, 4), "3-5-haiku"),
        (Price(0.25, 1.25), "3-haiku"),
    )
    for name in names.split()
}


def price_of(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """A model's price; None where it is unknown.

    Ignores a provider and a region in front of the name, a date, a version, an alias or a variant
    behind it, and a point instead of a dash.

    Args:
        own: Prices that win over all others.

    >>> price_of("claude-haiku-4-5-20251001")
    Price(input=1, output=5, cache_read=0.1, cache_write=1.25, long_from=0, long_factor=1.0)
    >>> price_of("us.anthropic.claude-sonnet-4-5-20250929-v1:0") == price_of("claude-sonnet-4.5")
    True
    >>> price_of("somebody-else") is None
    True
    """
    table = {**PRICES, **_given, **(own or {})}
    bare = model.rpartition("/")[2].rpartition("anthropic.")[2]
    bare = _BEHIND.sub("", bare)
    return table.get(model) or table.get(bare) or table.get(_POINT.sub("-", bare))


_given: dict[str, Price] = {}


def parse_price(text: str) -> tuple[str, Price]:
    """A price as the command line has it.

    Args:
        text: MODEL=INPUT/OUTPUT, in dollars for a million tokens.

    Raises:
        UsageError: it is something else.

    >>> name, price = parse_price("my-model=1.5/6")
    >>> name, price.input, price.output
    ('my-model', 1.5, 6.0)
    """
    model, _, rates = text.rpartition("=")
    parts = rates.split("/")
    try:
        read, written = (float(part) for part in parts)
        if not model.strip() or not (0 <= read < math.inf and 0 <= written < math.inf):
            raise ValueError(text)
    except ValueError as error:
        raise UsageError(
            f"--price {text!r} is no price",
            hint="MODEL=INPUT/OUTPUT in dollars for a million tokens, as in my-model=3/15",
        ) from error
    return model.strip(), Price(read, written)


def use_prices(given: Iterable[str]) -> None:
    """Prices for all models of this process, in front of the table's, behind a Model's own.

    Args:
        given: What `parse_price` takes.

    Raises:
        UsageError: one is no price; nothing is changed.
    """
    parsed = dict(parse_price(text) for text in given)
    _given.clear()
    _given.update(parsed)
