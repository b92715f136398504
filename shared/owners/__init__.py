"""Keeps declared resources for the service that owns them: rows, registry, questions and commands.

An owner adds `Rules`: checks that no schema can state, and fields shown besides.
"""
