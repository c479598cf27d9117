"""Where engines are built and run: one module a runtime, chosen by target."""
