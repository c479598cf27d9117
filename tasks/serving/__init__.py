"""Engines served: Triton's model repositories, its server, and KServe's files. Neither Prefect nor MLflow is here."""
