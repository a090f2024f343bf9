"""Checks webhooks with the reference library: each line of the input is one, `{"secret", "headers", "body"}`.

Prints a line for each: `ok`, or why the library does not take it.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "crates" / "testkit"))

from pinned import installed  # noqa: E402

sys.path.insert(0, str(installed(HERE / "standard_webhooks.txt")))

from standardwebhooks import Webhook, WebhookVerificationError  # noqa: E402

for line in sys.stdin:
    webhook = json.loads(line)
    try:
        Webhook(webhook["secret"]).verify(webhook["body"], webhook["headers"])
        print("ok")
    except WebhookVerificationError as refused:
        print(refused)
