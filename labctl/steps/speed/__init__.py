"""Speed in rounds over all formats; several sequences at once; numbers of threads."""
