"""The sampler `trajectory`: a Gaussian process over whole trajectories, and the gain that it expects of a trial."""
