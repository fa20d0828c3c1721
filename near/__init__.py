"""near: pick the training examples nearest to your task, train on them, and see whether it helped."""

__version__ = "0.1.0"
