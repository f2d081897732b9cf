"""Analyses of sweeps and runs: classic baselines, matched quantities, the loss landscape."""
