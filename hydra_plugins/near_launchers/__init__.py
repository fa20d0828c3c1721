"""Launchers for multirun: hydra/launcher=joblib, submitit_local, submitit_slurm, ray. Hydra looks for them here."""
