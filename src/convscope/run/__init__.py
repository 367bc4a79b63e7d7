"""The stages of a training run, wired together: prepare, fit into memory, train, evaluate, record."""
