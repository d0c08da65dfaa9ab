"""The Open Inference Protocol's wire contract, by version."""
