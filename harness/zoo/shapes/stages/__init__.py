"""The stages of the recipe, one network each. Each takes what the earlier ones made."""
