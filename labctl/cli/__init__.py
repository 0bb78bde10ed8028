"""What is typed and what is seen; the only room with click and rich."""
