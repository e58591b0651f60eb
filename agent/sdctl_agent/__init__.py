"""The queue agent: takes tasks from one SQS queue, drives one runtime, stores and reports what came out."""
