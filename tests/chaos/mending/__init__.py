"""Failed runs are mended by one command while executors are killed and other runs go on."""
