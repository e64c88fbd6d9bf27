"""Several models on several settings: how fast each is, what it holds, and what its operators take."""
