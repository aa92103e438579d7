"""What a CUDA device reaches with this service, a module a question: `coordserve bench device --out DIR`."""
