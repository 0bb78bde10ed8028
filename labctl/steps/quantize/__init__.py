"""Make the quantized files and check what they really contain.

Example: labctl quantize --formats Q4_K_M,Q2_K
"""
