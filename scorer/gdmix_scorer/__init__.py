"""The online scoring service: one request is one context and its candidates."""
