"""Projects of a workspace: their datasets, hyperparameters and health."""
