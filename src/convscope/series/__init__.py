"""Several runs for one comparison: planned, trained where they are missing, and compared."""
