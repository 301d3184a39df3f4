"""Whole stories with real containers, and the harness for them."""
