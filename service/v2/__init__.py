"""The Open Inference Protocol, version 2, over REST, as KServe and Triton speak it."""
