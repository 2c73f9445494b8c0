"""Models' prices: of the package `genai-prices`, as it is installed, and your own in front of them.

Nothing is fetched, so a price changes with an update of the package only; what a recorded call cost
is in its record.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from typing import Any

from autopilot.errors import NoPriceError, UsageError

_MILLION = 1_000_000
_SAMPLE = 1000  # tokens of a short prompt, to which no tier for long ones applies


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


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens.

    Args:
        input: Tokens read.
        output: Tokens written.
        cache_read: As a share of `input`.
        cache_write: As a share of `input`; for five minutes.

    >>> Price(3, 15).cost(Usage(input_tokens=1_000_000, output_tokens=100_000))
    4.5
    """

    input: float
    output: float
    cache_read: float = 0.1
    cache_write: float = 1.25

    def cost(self, usage: Usage) -> float:
        """Dollars for the tokens of one call."""
        read = (
            usage.input_tokens
            + usage.cache_write_tokens * self.cache_write
            + usage.cache_read_tokens * self.cache_read
        )
        return (read * self.input + usage.output_tokens * self.output) / _MILLION


@dataclass(frozen=True)
class _PackagePrice(Price):
    """A price of the package; `input` and `output` are those of a short prompt."""

    calculate: Callable[[Usage], Any] = field(kw_only=True, repr=False, compare=False)

    def cost(self, usage: Usage) -> float:
        return float(self.calculate(usage).total_price)


def price_of(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """A model's price; None where it is unknown.

    A name may have a provider and a region in front, a date, a version or an alias behind. Cached
    tokens, long prompts and regions cost what the package says.

    Args:
        own: Prices that win over all others.

    >>> price_of("claude-haiku-4-5-20251001") == price_of("anthropic/claude-haiku-4.5")
    True
    >>> price_of("claude-haiku-4-5").input
    1.0
    >>> price_of("somebody-else") is None
    True
    """
    return (own or {}).get(model) or _given.get(model) or _listed(model)


@lru_cache(maxsize=256)
def _listed(model: str) -> Price | None:
    # Here, since its import takes as long as all else that a command of the terminal needs.
    import genai_prices

    # "litellm": PROVIDER/MODEL, or a bare name. Bedrock and OpenRouter have names of their own.
    lists = ["litellm"] + ["aws"] * ("." in model) + ["openrouter"] * ("/" in model)

    def calculate(provider: str, usage: Usage) -> Any:
        tokens = {**asdict(usage), "input_tokens": usage.read}
        return genai_prices.calc_price(genai_prices.Usage(**tokens), model, provider_id=provider)

    for provider in lists:
        with contextlib.suppress(LookupError):
            sample = calculate(provider, Usage(_SAMPLE, _SAMPLE))
            dollars = (sample.input_price, sample.output_price)
            read, written = (round(float(each) * _MILLION / _SAMPLE, 9) for each in dollars)
            return _PackagePrice(read, written, calculate=partial(calculate, provider))
    return None


def require_price(model: str, price: Price | None, limit_usd: float) -> None:
    """Checks before a call that a budget of dollars can count it.

    Raises:
        NoPriceError: there is no price.
    """
    if price is None:
        raise NoPriceError(
            f"the price of {model} is unknown, and there is a budget of ${limit_usd:g}",
            hint=f"give it: --price {model}=INPUT/OUTPUT, in dollars for a million tokens",
        )


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
    """Prices for all models of this process, in front of the package's, behind a Model's own.

    Args:
        given: What `parse_price` takes.

    Raises:
        UsageError: one is no price; nothing is changed.
    """
    parsed = dict(parse_price(text) for text in given)
    _given.clear()
    _given.update(parsed)
