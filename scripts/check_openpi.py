#!/usr/bin/env python3
"""Talks to a running policy server with openpi's own client package.

    pip install openpi-client
    evo1 serve --token abc & scripts/check_openpi.py ws://127.0.0.1:9000/openpi abc
    evo1 serve --protocol openpi & scripts/check_openpi.py 127.0.0.1:9000
"""

import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

host, _, port = sys.argv[1].rpartition(":") if "://" not in sys.argv[1] else (sys.argv[1], None, None)
policy = WebsocketClientPolicy(host, port and int(port), api_key=sys.argv[2] if len(sys.argv) > 2 else None)
metadata = policy.get_server_metadata()
width, actions = (metadata["robots"][0][key] for key in ["state_dim", "action_dim"])
observation = {
    "observation/image": np.full((224, 224, 3), 128, np.uint8),
    "observation/state": np.zeros(width),
    "prompt": "Open the drawer",
}
for _ in range(3):
    reply = policy.infer(observation)
    assert reply["actions"].shape == (metadata["horizon"], actions) and np.isfinite(reply["actions"]).all()
    assert reply["server_timing"]["infer_ms"] > 0
print(f"actions {reply['actions'].shape} {reply['actions'].dtype}, {reply['server_timing']}, {reply['policy_timing']}")
try:
    policy.infer({"observation/state": np.zeros(width), "prompt": "Open the drawer"})
    sys.exit("an observation without a camera frame must be refused")
except RuntimeError as error:
    print("refused as it should be:", str(error).splitlines()[-1])
