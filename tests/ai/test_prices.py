"""A model's price is found under whatever name a service asks for it by."""

import pytest

from autopilot.ai.prices import PRICES, Price, price_of

AROUND = [
    "{}",
    "{}-20250929",
    "{}@20250929",
    "{}-latest",
    "anthropic/{}",
    "openrouter/anthropic/{}:beta",
    "anthropic.{}-20250929-v1:0",
    "us.anthropic.{}-20250929-v1:0",
    "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.{}-v2:0",
]


@pytest.mark.parametrize("around", AROUND)
def test_what_stands_around_a_name_does_not_matter(around):
    for name, price in PRICES.items():
        assert price_of(around.format(name)) == price
    assert price_of(around.format("claude-haiku-4.5")) == PRICES["claude-haiku-4-5"]


def test_an_own_price_wins_and_another_model_has_none():
    own = {"anthropic/claude-haiku-4.5": Price(7, 8)}
    assert price_of("anthropic/claude-haiku-4.5", own) == Price(7, 8)
    assert [price_of(name) for name in ("claude", "gpt-4.1", "claude-haiku-9", "")] == [None] * 4
