"""One converter a module, each the entry of a child process: ModelOpt and ONNX Runtime's quantizer must never meet."""
