"""Where cases come from, other formats and drafts for a person to accept; and the documents they ask about."""
