"""The page for a browser: worksheet, recommendation and what can be tried out, in one file."""
