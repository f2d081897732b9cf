"""Starts runs on this machine, Slurm, TPU VMs, GKE and SkyPilot: `python -m launch` renders what each takes.

Imports no JAX: the config and the memory plan are checked by child processes.
"""
