"""One module per outside system; the only importers of boto3."""
