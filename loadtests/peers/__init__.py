"""The servers that the service is compared with: a folder each, written as its own documentation advises."""
