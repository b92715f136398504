"""The kill matrix: kill and pause each part of a running installation under load, then count what was lost or done twice."""
