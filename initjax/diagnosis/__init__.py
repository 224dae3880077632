"""What is wrong with a model, why, and what mends it."""

from initjax.diagnosis._diagnose import diagnose

__all__ = ["diagnose"]
