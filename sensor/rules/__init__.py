"""What a deviation leads to."""
