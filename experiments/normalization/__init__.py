"""What does batch normalization do to signal and gradient?"""
