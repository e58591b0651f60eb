"""The task API behind API Gateway: submit, status, list, cancel, retry, uploads."""
