"""The client side of the task API: submit, follow, upload, download; standard library on its usual path."""
