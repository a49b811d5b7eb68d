"""Where episodes are built: child processes here, or a Ray cluster."""
