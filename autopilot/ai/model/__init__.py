"""A call of a model: recorded, paid for, and within the rate limit."""

from autopilot.ai.model.model import Model as Model
