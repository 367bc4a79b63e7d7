"""Networks written out layer by layer: the notation, its layers and their building blocks."""
