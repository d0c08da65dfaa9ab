"""Asking a scorer: requests, results, and the clients that carry one to the other."""
