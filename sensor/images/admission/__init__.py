"""Whether a new container may run: ways to hold its start, and who decides."""
