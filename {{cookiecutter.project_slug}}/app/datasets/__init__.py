"""Where cases come from: other formats, and drafts for a person to accept."""
