"""The one place that writes to disk: whole files, run folders, checkpoints, caches, downloads."""
