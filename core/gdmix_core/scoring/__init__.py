"""The scoring engine: from encoded requests and coefficient records to scores; arrays in, arrays out."""
