"""Networks as files that need no torch, and the proof that they say the same."""
