"""The drill of tokens: refresh tokens that rotate while replicas of the oauth service are killed and paused."""
