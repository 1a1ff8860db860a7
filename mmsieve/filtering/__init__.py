"""Filtering: tables -> decisions, by conditions and exact cuts, in bounded memory."""
