"""Datasets that models make and judge."""
