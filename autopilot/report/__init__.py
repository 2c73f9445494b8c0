"""A run to look at: collected, as Markdown, as a page."""
