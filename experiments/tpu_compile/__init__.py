"""Compiles every program for TPUs that are not here."""
