"""The write-ups N1 to N13: named runs, and what each needs."""
