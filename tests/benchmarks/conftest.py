"""Benchmarks are run by `python -m tests.benchmarks`, not collected as tests."""

collect_ignore_glob = ["*.py"]
