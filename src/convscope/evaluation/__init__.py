"""What a trained network gets right and wrong."""
