"""Whether what comes after the last `=` is the gold answer.

luspo writes one question a line, a JSON object, and reads one reply a line.
"""

import json
import sys

for line in sys.stdin:
    question = json.loads(line)
    extracted = question["response"].rpartition("=")[2].strip()
    correct = extracted == question["ground_truth"]
    reply = {"id": question["id"], "score": float(correct), "correct": correct, "extracted": extracted}
    print(json.dumps(reply), flush=True)
