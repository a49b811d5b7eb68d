"""A table with one row per window: what filters and weights ask about."""
