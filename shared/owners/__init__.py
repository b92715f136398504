"""What follows from any declared resource for the service that owns it: its rows, registry, questions and commands.

An owner adds `Rules`: what no schema can say, and what is shown besides.
"""
