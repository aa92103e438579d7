"""The server: from an HTTP request to the scores of its images.

An image meets, in this order: `app` (routes), `bodies` (pictures out of a request body),
`slots` (a place in the `arena`, a `doorbell` to the engine), `engine` and its `batcher`,
`answers` (scores to JSON). `supervisor` starts and watches the processes around them.
"""

__version__ = "0.1.0"
