"""Results as text, and as the documents of --json."""
