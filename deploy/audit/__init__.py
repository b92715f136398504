"""Verification of the archive, offline, from an export: what was changed, is missing or was put in, by stream and sequence."""
