"""Datasets, from packages and from files."""
