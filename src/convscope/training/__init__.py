"""The written-out training loop and its parts."""
