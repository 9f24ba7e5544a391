"""Trials that share a device: who is on which device, and what runs there."""
