"""Changes to built networks: stages, segments, heads, first layers, dense layers as convolutions."""
