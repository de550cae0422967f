"""Published cost tables beside our own counts."""
