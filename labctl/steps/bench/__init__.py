"""Time reading a prompt and generating text.

As llama-bench does, in rounds over all formats.

Example: labctl bench --threads 4 --cooldown 20
"""
