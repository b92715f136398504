"""Digests of the archive: a Merkle tree for each stream, whose signed checkpoints say what the stream held.

The formats are public ones, so that public tools can read and witnesses cosign them: C2SP `tlog-tiles`, `tlog-checkpoint` and
`signed-note` (https://c2sp.org), hashes as in RFC 6962.
"""
