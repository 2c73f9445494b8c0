"""Proposals and promotion: the kept epochs on a branch for a pull request, or taken over."""
