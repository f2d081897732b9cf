"""Analysis of sweeps beyond their own report: a classic baseline, figures, what is matched, a page."""
