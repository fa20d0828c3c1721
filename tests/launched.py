"""Stand-ins for jobs of a sweep, in a file that imports nothing."""

import os
import signal
import sys


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
        if self.how == "noisy":
            print("not an outcome")
        return {"error": "no such file"} if self.how == "badly" else {"value": 1.5}


class Reports:
    """A job that returns an expression's value in its process, as text."""

    def __init__(self, expression: str, label: str = "seed=1"):
        self.expression, self.label, self.environment = expression, label, {}

    def __call__(self):
        return {"value": str(eval(self.expression, {"os": os, "sys": sys}))}
