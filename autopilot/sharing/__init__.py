"""Experiments between machines: push, fetch, hooks."""
