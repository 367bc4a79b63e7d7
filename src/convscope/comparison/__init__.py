"""Runs side by side: are they comparable, how large is the difference, and is it more than chance."""
