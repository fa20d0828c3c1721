"""Runs side by side, in the terminal and as one HTML file: python report.py runs=FOLDER."""

from near.app.entry import start

if __name__ == "__main__":
    start("report")
