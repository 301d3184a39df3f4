"""The root-only socket between the daemon and `rote …` commands."""
