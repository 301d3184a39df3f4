"""Attacks on learned services: whether a model tells them from the service."""
