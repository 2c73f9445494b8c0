"""The surroundings of the user's code and of agents: checkouts, links, processes, confinement."""
