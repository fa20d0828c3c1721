"""Target loss and answers of a model or a run: python eval.py run=RUN (or model.name_or_path=...)."""

from near.app.entry import start

if __name__ == "__main__":
    start("eval")
