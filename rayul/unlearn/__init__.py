"""Unlearning: rows -> tokens -> forward -> loss -> step -> evaluation. Knows nothing of Ray or Optuna."""
