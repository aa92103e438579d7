"""What the service itself reaches on this machine, a module a question: `make bench`."""
