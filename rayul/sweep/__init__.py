"""The sweep: the only folder that imports ray.

baseline and oracle -> Ray Tune: search (Optuna) <-> trials <-> scheduler (criteria) -> journal -> exported adapters.
"""
