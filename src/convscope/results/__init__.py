"""The values that stages pass to each other: frozen dataclasses of numpy arrays and plain values, without torch."""
