"""rayul: Ray-distributed hyper-parameter sweeps for LLM unlearning under control."""

__version__ = "0.1.0"
