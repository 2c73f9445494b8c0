"""Fixtures: the checkout `top`, and `demo`, an experiment of five epochs."""

from experiments import demo, made_demo, top  # noqa: F401
