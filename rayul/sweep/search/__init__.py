"""Which configuration to try next: Optuna's samplers, told how every trial ended."""
