"""Which trials to stop early, and why."""
