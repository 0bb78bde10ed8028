"""Measure peak memory, each format in a fresh process.

Example: labctl memory --ctx 2048
"""
