"""Judging finalists from the records: which points they are, what held, what came back, and a verdict on each."""
