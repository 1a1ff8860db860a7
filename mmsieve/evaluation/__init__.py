"""Evaluation: models against labelled texts, and two tables against each other."""
