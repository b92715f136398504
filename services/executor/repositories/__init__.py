"""The room of git: a workspace and a branch of a remote repository, compared with what both had last, and brought together.

`decisions` is pure. `inside` and `shell` speak to a remote, in a child of the sandbox and nowhere else, with the `libraries` that
it is given; `remote` has it do so. `states` are what both sides had last, as messages. `comparing` looks at both sides, `syncing`
brings them together, when somebody asks (`questions`) or the branch is said to have moved (`following`).
"""
