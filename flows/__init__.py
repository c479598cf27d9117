"""Prefect flows, the command line and the settings: what decides what runs, and does none of the work."""
