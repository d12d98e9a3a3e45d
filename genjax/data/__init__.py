"""Data: sources of images, and batches of them."""
