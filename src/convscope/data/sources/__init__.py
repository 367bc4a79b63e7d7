"""Where labelled images come from: data sets by name, folders, archives, CSV files."""
