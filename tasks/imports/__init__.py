"""Makes a model directory of a source and of data: `importing.import_model`."""
