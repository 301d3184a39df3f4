"""Checks of how a container and its image are configured."""
