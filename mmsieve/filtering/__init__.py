"""Filtering: tables -> decisions, by conditions, thresholds and exact top-k, in bounded memory."""
