"""The verbs as functions: one file a verb, what the command line and Python both call."""
