"""What images are made from, and what judges them."""
