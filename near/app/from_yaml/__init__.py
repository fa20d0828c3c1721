"""Files of DataFlex and LLaMA-Factory as overrides of the scripts here: `from_yaml=FILE`
(near/app/from_yaml/expanded.py)."""
