"""Proposals, promotion and decisions."""
