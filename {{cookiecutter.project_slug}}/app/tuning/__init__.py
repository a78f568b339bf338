"""Configurations tried on a dataset and compared: the abstention threshold, the weight of both searches, settings."""
