"""The wire contracts and the code generated from them (python proto/generate.py)."""
