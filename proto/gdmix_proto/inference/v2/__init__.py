"""Version 2 of the Open Inference Protocol, as KServe and Triton speak it."""
