"""Attacks: does what was forgotten come back when somebody tries?

A file is an attack: a function of a `Target` that yields its attempts, each with what the forget rows score under it.
`table.py` has them all.
"""
