"""Numbers and choices in configuration files, and the search over them."""
