"""A run as pages for people: one folder that opens from disk, drawn from records alone."""
