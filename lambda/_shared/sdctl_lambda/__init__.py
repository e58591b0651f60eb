"""What the Lambda functions share: settings, AWS clients, the task table, the topics, log lines.

Travels inside every function's zip; imports nothing but `sdctl.contract`, `sdctl.task_record` and botocore.
"""
