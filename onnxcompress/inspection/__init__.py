"""What is in a model: sizes, work, memory, values of its tensors, and what could be done to it."""
