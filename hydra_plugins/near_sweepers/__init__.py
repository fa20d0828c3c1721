"""Sweepers for multirun: hydra/sweeper=race. Hydra looks for them here."""
