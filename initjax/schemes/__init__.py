"""Whole-model initialization: drawn fast, by true fans, calibrated, by recipe."""

__all__: list[str] = []
