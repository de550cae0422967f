"""Training that zoo recipes and method fits share. It knows no method by name."""
