"""Sends the requests of a file, one JSON object per line, to a queue of Amazon SQS.

python sqs.py REQUESTS.jsonl; the queue is QUEUE_URL
"""

import os
import sys
from itertools import islice
from pathlib import Path

import boto3

sqs = boto3.client("sqs")
with Path(sys.argv[1]).open() as file:
    lines = filter(None, map(str.strip, file))
    while batch := list(islice(lines, 10)):  # as many as a call may have
        entries = [{"Id": str(n), "MessageBody": request} for n, request in enumerate(batch)]
        answer = sqs.send_message_batch(QueueUrl=os.environ["QUEUE_URL"], Entries=entries)
        if failed := answer.get("Failed"):
            # with importIds, the whole file may be sent again
            sys.exit(f"{len(failed)} were not taken: {failed[0]['Message']}")
