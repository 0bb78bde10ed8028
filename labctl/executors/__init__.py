"""Where a task runs: a fresh child process, and what comes back from it."""
