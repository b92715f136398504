"""Environments: the packages that a workspace asks for, resolved to a lock, built once by what the lock names, shared read-only.

`requirements` reads what a workspace asks for; `indexes` knows where packages come from; `lock` is what was decided; `wheels` keeps
each package unpacked, by the hash of its file; `environments` puts them together; `builds` has all of it done in the background.
"""
