"""What the library itself costs, and how often its verdicts are wrong."""
