"""Our own networks."""
