"""The data plane: readers, feature index, home shards, partitions, score blocks and their files."""
