"""Where a task runs: a fresh child process of this computer (local, child), or whatever else is a base.Executor."""
