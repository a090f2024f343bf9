"""A real mail server (aiosmtpd) for tests: `python3 smtp_server.py FOLDER SECONDS`.

Prints its port. Each message takes it so many seconds. Each message that it takes becomes a file in FOLDER, headers and all. A recipient whose name begins with a
code, such as 450-x@example.com, is refused with that code; later-x@example.com is refused once with 450 and then taken.
"""

import asyncio
import pathlib
import sys

from aiosmtpd.smtp import SMTP


class Handler:
    def __init__(self, folder, seconds):
        self.folder = folder
        self.seconds = seconds
        self.taken = 0
        self.refused = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        code = name.split("-")[0]
        if code.isdigit() and len(code) == 3:
            return f"{code} no"
        if code == "later" and address not in self.refused:
            self.refused.add(address)
            return "450 come again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        await asyncio.sleep(self.seconds)
        self.taken += 1
        name = self.folder / f"{self.taken:04}"
        # Whoever sees the file sees all of it.
        name.with_suffix(".part").write_bytes(envelope.content)
        name.with_suffix(".part").rename(name.with_suffix(".eml"))
        return "250 OK"


async def main():
    handler = Handler(pathlib.Path(sys.argv[1]), float(sys.argv[2]))
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, enable_SMTPUTF8=True), host="127.0.0.1", port=0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
