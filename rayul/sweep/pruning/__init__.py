"""Which trials to stop early, and why: a rule is a file, and a row in rules.py."""
