"""Audits: people judge a sample of a table blindly; from their labels follows where to cut."""
