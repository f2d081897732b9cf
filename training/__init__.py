"""Sums to gradients, gradients to updates, updates to checkpoints: configuration, mesh, step and loop."""
