"""What is kept: records as files, arrays, digests, locks, and text files as they come."""
