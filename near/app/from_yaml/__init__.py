"""Files of DataFlex and LLaMA-Factory, translated into overrides of near's scripts: `from_yaml=FILE`
(near/app/from_yaml/expanded.py)."""
