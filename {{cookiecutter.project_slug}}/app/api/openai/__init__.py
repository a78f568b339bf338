"""OpenAI's wire formats: what clients written for them send, and what they expect to get back."""
