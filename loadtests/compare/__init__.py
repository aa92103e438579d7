"""The service beside other servers, in turns on one machine: `make compare`."""
