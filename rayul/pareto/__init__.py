"""Mathematics on records: which evaluations are solutions, which of those are non-dominated, and which one to take."""
