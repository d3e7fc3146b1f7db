"""`Evo1Client` against servers that are late, silent, slow and gone. EVO1 is the program, `evo1` when not set.

    python test_evo1_client.py
"""

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import threading
import time
import unittest
from http import HTTPStatus

import numpy as np
from websockets.sync.server import serve
from websockets.utils import accept_key

from evo1_client import Evo1Client, Evo1Error

CAMERAS = {"names": ["observation.images.front", "observation.images.wrist"], "optional": 0, "aliases": {}}
INFO = {"robots": [], "action_dim": 1, "max_action_dim": 24, "swaps_channels": True, "horizon": 1, "cameras": CAMERAS}


@contextlib.contextmanager
def scripted(answer):
    """A server whose websocket connections are handled by `answer`; its number of connections is counted."""

    def http(connection, request):
        if request.path == "/info":
            return connection.respond(HTTPStatus.OK, json.dumps(INFO))
        return None

    counter = iter(range(1000))
    with serve(lambda ws: answer(ws, next(counter)), "127.0.0.1", 0, process_request=http, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def shake_hands(listener):
    """Answers /info, and the handshake of a websocket from which nothing is read then."""
    connections = []
    for _ in range(2):
        connections.append(listener.accept()[0])
        head = connections[-1].recv(65536).decode()
        if head.startswith("GET /info"):
            body = json.dumps(INFO)
            connections[-1].sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        else:
            accept = accept_key(re.search(r"Sec-WebSocket-Key: (\S+)", head)[1])
            upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            connections[-1].sendall(f"{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
    time.sleep(5)


def reply(request_id, value):
    return json.dumps({"request_id": request_id, "actions": [[value]], "batch": 1, "milliseconds": {}})


def ask(client, seed):
    return client.predict([np.zeros((2, 2, 3), np.uint8)], [0.0], "go", seed=seed)[0, 0]


class Scripted(unittest.TestCase):
    def test_a_late_reply_is_never_taken_for_a_new_one(self):
        def late(ws, number):
            for message in ws:
                request = json.loads(message)
                if request["seed"] == 1:
                    time.sleep(0.5)
                ws.send(reply(request["request_id"], request["seed"]))

        with scripted(late) as url, Evo1Client(url, read_timeout=0.2) as client:
            with self.assertRaises(TimeoutError):
                ask(client, 1)
            self.assertEqual([ask(client, seed) for seed in range(2, 9)], list(range(2, 9)))

    def test_replies_to_others_are_passed_over_and_ids_differ(self):
        ids = []

        def confused(ws, number):
            for message in ws:
                ids.append(json.loads(message)["request_id"])
                for other, value in [("stale", 100), (ids[-1], len(ids))]:
                    ws.send(reply(other, value))

        with scripted(confused) as url, Evo1Client(url) as client:
            self.assertEqual([ask(client, 0) for _ in range(3)], [1, 2, 3])
        self.assertEqual(len(set(ids)), 3)

    def test_a_connection_that_has_ended_is_made_anew(self):
        def leaves(ws, number):
            request = json.loads(ws.recv())
            if number > 0:
                ws.send(reply(request["request_id"], request["seed"]))

        events = []
        with scripted(leaves) as url, Evo1Client(url, pause=0.01, on_event=lambda *event: events.append(event[0])) as client:
            with self.assertRaises(Exception):
                ask(client, 1)
            self.assertEqual(ask(client, 2), 2)
        self.assertEqual(events, ["lost", "restored"])
        with self.assertRaises(OSError):
            Evo1Client(url)

    def test_tries_have_an_end(self):
        events = []
        with scripted(lambda ws, number: None) as url:
            client = Evo1Client(url, tries=3, pause=0.01, on_event=lambda *event: events.append(event[0]))
            with self.assertRaises(Exception):
                ask(client, 1)
        with self.assertRaises(OSError):
            ask(client, 2)
        self.assertEqual(events, ["lost", "failed", "failed", "failed"])

    def test_nothing_is_waited_for_longer_than_it_may_take(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            start = time.monotonic()
            with self.assertRaises(TimeoutError):
                Evo1Client(f"ws://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.2)
            self.assertLess(time.monotonic() - start, 1)

        with socket.create_server(("127.0.0.1", 0)) as deaf:
            threading.Thread(target=shake_hands, args=[deaf], daemon=True).start()
            client = Evo1Client(f"ws://127.0.0.1:{deaf.getsockname()[1]}", write_timeout=0.3)
            start = time.monotonic()
            with self.assertRaisesRegex(TimeoutError, "not sent"):
                client.predict([], [0.0], "x" * 30_000_000)
            self.assertLess(time.monotonic() - start, 3)

    def test_channels_are_swapped_where_the_server_swaps_them(self):
        pixels = []

        def look(ws, number):
            for message in ws:
                request = json.loads(message)
                pixels.append(request["image"][0][0][0])
                ws.send(reply(request["request_id"], 0))

        with scripted(look) as url, Evo1Client(url) as client:
            client.predict([np.array([[[1, 2, 3]]])], [0.0], "go")
            client.info["swaps_channels"] = False
            client.predict([np.array([[[1, 2, 3]]])], [0.0], "go")
        self.assertEqual(pixels, [[3, 2, 1], [1, 2, 3]])


class Real(unittest.TestCase):
    def test_the_server_answers_refuses_and_restarts(self):
        command = [os.environ.get("EVO1", "evo1"), "serve", "--steps", "2", "--bind"]
        start = lambda bind: subprocess.Popen([*command, bind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        server = start("127.0.0.1:0")
        url = server.stdout.readline().removeprefix("listening on ").strip()
        frame, state = np.full((64, 64, 3), 128, np.uint8), np.zeros(8)
        with Evo1Client(url, pause=0.2, tries=50) as client:
            first = client.predict([frame], state, "Open the drawer", seed=3)
            with self.assertRaises(Evo1Error) as refused:
                client.predict([frame], state, "Open the drawer", steps=0)
            self.assertEqual(refused.exception.kind, "invalid_request")
            server.kill()
            server.wait()
            with self.assertRaises(Exception):
                client.predict([frame], state, "Open the drawer", seed=3)
            server = start(url.removeprefix("ws://"))
            again = client.predict([frame], state, "Open the drawer", seed=3)
            np.testing.assert_array_equal(again, first)
        server.terminate()
        server.communicate()


class Info(unittest.TestCase):
    """What the server says when a client connects is how it speaks."""

    def test_frames_find_their_views_by_name(self):
        seen = []

        def answer(ws, _):
            request = json.loads(ws.recv())
            seen.append(request["image"])
            ws.send(reply(request["request_id"], 1.0))
            ws.recv()

        red, black = np.array([[[255, 0, 0]]], np.uint8), np.zeros((1, 1, 3), np.uint8)
        with scripted(answer) as url, Evo1Client(url) as policy:
            policy.predict({"wrist": red, "observation.images.front": black}, [0.0], "go")
            with self.assertRaisesRegex(ValueError, "top.*front.*wrist"):
                policy.predict({"top": red}, [0.0], "go")
            with self.assertRaisesRegex(ValueError, "wrist.*lacking"):
                policy.predict({"front": red}, [0.0], "go")
        self.assertEqual(seen, [[[[[0, 0, 0]]], [[[0, 0, 255]]], [[[0, 0, 0]]]]])

    def test_a_chunk_of_another_length_is_none(self):
        def answer(ws, _):
            request = json.loads(ws.recv())
            ws.send(json.dumps({"request_id": request["request_id"], "actions": [[1.0], [2.0]], "milliseconds": {}}))
            ws.recv()

        with scripted(answer) as url, Evo1Client(url) as policy:
            with self.assertRaisesRegex(ValueError, "no chunk of 1 "):
                policy.predict([None], [0.0], "go")


if __name__ == "__main__":
    # Clients that leave are what is tested, and no news.
    logging.disable()
    unittest.main()
