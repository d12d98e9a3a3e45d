"""What is drawn from a trained model."""
