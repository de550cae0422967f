"""Pictures from records."""
