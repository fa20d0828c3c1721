"""A stand-in for a job of a sweep, in a file that imports nothing."""

import os
import signal


class Ends:
    """A job that ends in a given way: well, fails, killed or exits."""

    label, environment = "seed=1", {}

    def __init__(self, how: str):
        self.how = how

    def __call__(self):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exits":
            os._exit(3)
        return {"value": 1.5} if self.how == "well" else {"error": "no such file"}
