"""A model's price is found under whatever name a service asks for it by."""

import pytest

from autopilot.ai.model.model import DEFAULT_MODEL
from autopilot.ai.prices import Price, Usage, parse_price, price_of, use_prices

AROUND = [
    "{}",
    "{}-20250929",
    "{}@20250929",
    "{}-latest",
    "anthropic/{}",
    "openrouter/anthropic/claude-sonnet-4.5:beta",
    "claude-sonnet-4.5",
]
BEDROCK = [
    "anthropic.{}-20250929-v1:0",
    "us.anthropic.{}-20250929-v1:0",
    "bedrock/us.anthropic.{}-20250929-v1:0",
    "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.{}-20250929-v1:0",
]


@pytest.mark.parametrize("around", AROUND + BEDROCK)
def test_what_stands_around_a_name_does_not_hide_its_price(around):
    price = price_of(around.format("claude-sonnet-4-5"))
    # Bedrock's regional endpoints cost a tenth more.
    more = 1.1 if around in BEDROCK else 1.0
    assert (price.input, price.output) == pytest.approx((3 * more, 15 * more))


def test_cached_tokens_and_long_prompts_cost_what_the_package_says():
    price = price_of("claude-sonnet-4-5")
    cached = Usage(10_000, 1000, cache_write_tokens=20_000, cache_read_tokens=50_000)
    dollars = (10_000 * 3 + 20_000 * 3.75 + 50_000 * 0.3 + 1000 * 15) / 1e6
    assert price.cost(cached) == pytest.approx(dollars)
    assert price.cost(Usage(300_000, 1000)) == pytest.approx((300_000 * 6 + 1000 * 22.5) / 1e6)
    assert price_of("openai/gpt-4o").input == pytest.approx(2.5)
    assert price_of(DEFAULT_MODEL) is not None


def test_an_own_price_wins_and_another_model_has_none():
    own = {"anthropic/claude-haiku-4.5": Price(7, 8)}
    assert price_of("anthropic/claude-haiku-4.5", own) == Price(7, 8)
    unknown = ("claude", "claude-haiku-9", "ollama/llama3", "openai/my-own", "my-gpt-4o-x", "")
    assert [price_of(name) for name in unknown] == [None] * len(unknown)
    use_prices(["ollama/llama3=0/0", "claude-haiku-4-5=2/3"])
    try:
        assert price_of("ollama/llama3") == Price(0, 0)
        assert price_of("claude-haiku-4-5") == parse_price("x=2/3")[1]
    finally:
        use_prices([])
