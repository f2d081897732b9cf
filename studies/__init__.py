"""Analysis of sweeps and runs beyond their own report: baselines, what is matched, the loss landscape."""
