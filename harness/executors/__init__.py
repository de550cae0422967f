"""Where operating points run."""
