"""What to compress, and how far: which layers a model can least do without."""
