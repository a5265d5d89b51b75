"""Shared helpers: logging, optional imports, atomic files, seeds, the environment.

Imports no other folder of the package.
"""
