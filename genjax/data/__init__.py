"""Data: sources of images, and the batches drawn from them."""
