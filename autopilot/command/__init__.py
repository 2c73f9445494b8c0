"""Systems that a command runs and scores."""
