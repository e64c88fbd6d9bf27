"""Two models side by side: what differs in their files, and where along the graph their values part."""
