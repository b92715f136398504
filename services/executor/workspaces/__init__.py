"""An organization's tree of files, and the code in it that serves.

`registration` records files, has their code described in a child and registers its workflows; `bundles` keeps the code of each
version on disk, with its `bytecode`; `slow` remembers which files took too long to load; `files` is a workspace as a run has it.
"""
