"""The drill of a cluster: brokers and databases away in turn, killed or cut off, and what became of each webhook."""
