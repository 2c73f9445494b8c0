"""What surrounds the user's code and agents: links, copies, processes, confinement."""
