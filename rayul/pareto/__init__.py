"""Mathematics on records: which evaluations are solutions, which of those nothing beats, and which one to take."""
