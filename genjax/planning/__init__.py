"""What a step needs, here or on a slice that is not there."""
