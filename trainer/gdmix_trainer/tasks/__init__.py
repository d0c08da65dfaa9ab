"""What a worker can do: one function for each task kind of `gdmix_core.tasks`."""
