"""What theory predicts about deep random networks, before any is built."""

__all__: list[str] = []
