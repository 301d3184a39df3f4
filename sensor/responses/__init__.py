"""What is done about a deviation, and what the kernel is told."""
