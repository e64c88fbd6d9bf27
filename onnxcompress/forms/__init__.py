"""Forms: how a compressed weight is written, and what each costs."""
