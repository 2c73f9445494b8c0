"""Measuring a commit, replaying an experiment, verifying a claim."""
