"""Measurements: what Rote costs, and what it survives."""
