"""Where models and texts come from: this disk, the Hub, checkpoints, Python packages."""
