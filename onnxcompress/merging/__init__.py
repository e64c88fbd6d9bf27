"""Several models made one: their weights mixed, or their outputs averaged in one graph."""
