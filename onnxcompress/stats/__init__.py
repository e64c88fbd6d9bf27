"""What layers see when the model runs."""
