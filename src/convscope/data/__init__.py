"""Images with labels: sources, the table of named data sets, and how images become splits and batches."""
