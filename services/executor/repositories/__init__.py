"""The room of git: a workspace and a branch of a remote repository, compared with what both had last, and brought together.

`decisions` is pure; `inside` is the only code that speaks to a remote, and runs in a child of the sandbox; `remote` has it do so;
`states` are what both sides had last, as messages; `syncing` brings the sides together.
"""
