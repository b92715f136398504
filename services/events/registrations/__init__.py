"""Registers sources with their senders: made, renewed, made anew and removed there, as the sources say.

`plan` decides, pure; `sender` asks one sender's API; `turn` does what is due of one source; `reconciling` has the turns taken;
`rows` are the registrations as they are known, and `notices` what senders say about them.
"""
