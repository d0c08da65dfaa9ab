"""Solvers: arrays in, arrays out. No input or output, no logging, no network; kernels at the bottom."""
