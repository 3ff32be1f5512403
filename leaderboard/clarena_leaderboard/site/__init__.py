"""Static pages: templates, charts and files, written so that a reader never sees a part of them."""
