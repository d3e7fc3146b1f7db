"""The Python loop on the bad network of the Rust program, `robot_loop` when ROBOT_LOOP is not set.

    ROBOT_LOOP=target/release/robot_loop python test_robot_loop.py
"""

import os
import signal
import subprocess
import unittest

import robot_loop


class Loop(unittest.TestCase):
    def test_a_loop_keeps_its_rate_whatever_the_network_does(self):
        program = os.environ.get("ROBOT_LOOP", "robot_loop")
        # A group of its own, because the network has a server that must end with it.
        with subprocess.Popen([program, "network", "30"], stdout=subprocess.PIPE, text=True, start_new_session=True) as network:
            try:
                summary = robot_loop.run(network.stdout.readline().strip(), 14)
            finally:
                os.killpg(network.pid, signal.SIGKILL)
        self.assertTrue(400 <= summary["ticks"] <= 425, summary)
        self.assertLess(summary["late"], summary["ticks"] / 20, summary)
        self.assertGreaterEqual(summary["failed"], 2, summary)
        self.assertGreaterEqual(summary["restored"], 2, summary)
        self.assertGreaterEqual(summary["chunks"], 10, summary)
        self.assertLess(summary["holds"], summary["ticks"] / 3, summary)


if __name__ == "__main__":
    unittest.main()
