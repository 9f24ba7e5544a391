"""The sampler `trajectory`: a Gaussian process over all evaluations of all trials proposes what should add most to the
front.

From the arrays up, each module importing from those above it:

kernel      how alike two configurations are
outputs     mean and covariance of the scores along a trajectory
process     the Gaussian process: likelihood, length scales, posterior
gain        what a point adds to the hypervolume of a front
proposal    the model of what was seen, and each candidate's expected gain over sampled futures
space       a spec's configurations as rows of numbers, and candidates
evidence    what the evaluations of trials say, as arrays
sampler     the sampler as Optuna sees it

Only `space`, `evidence` and `sampler` know of specs, evaluations or Optuna.
"""
