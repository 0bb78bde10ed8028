"""Write the sample outputs and answer the probes.

Example: labctl generate --formats Q4_K_M
"""
