"""The stages of a conversion, one module each, as plain functions that know nothing of Prefect."""
