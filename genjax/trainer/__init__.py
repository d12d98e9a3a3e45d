"""Training: the loop over steps, and what it writes."""
