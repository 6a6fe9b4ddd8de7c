"""One training run from its flags to its summary: config, preparation, session, training, games."""
