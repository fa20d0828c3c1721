"""Merge an adapter into its base model: python merge.py adapter_name_or_path=RUN/adapter export_dir=OUT."""

from near.app.entry import start

if __name__ == "__main__":
    start("merge")
