"""The conversion of one model, from model directory to registry."""
