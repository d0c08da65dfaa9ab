"""The worker: a process that takes units of training jobs from a coordinator and does the work."""
