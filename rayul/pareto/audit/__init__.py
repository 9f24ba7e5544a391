"""The audit of a sweep, read: which points were finalists, what held, what came back, and a verdict on each."""
