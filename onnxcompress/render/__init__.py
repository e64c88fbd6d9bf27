"""A report shown: as a page on a terminal, as plain text, as one last line."""
