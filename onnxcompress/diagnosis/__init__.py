"""What this machine, and what is installed on it, does for the speed of models."""
