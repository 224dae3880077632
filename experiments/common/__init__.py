"""What several experiments share: networks, training, figures, pages."""
