"""Pages: HTML files that open from the disk, drawn from recorded results."""
