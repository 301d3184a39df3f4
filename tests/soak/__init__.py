"""What learning is worth: real services learned and judged, and generalisers compared."""
