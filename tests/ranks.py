"""Processes that belong together, forked, as torchrun would start them."""

import os
import signal
import socket
import time
import traceback

import torch

from occdistill.errors import UserError

PATIENCE = 300  # seconds


def together(function, ranks=2):
    """Run `function()` in processes of one group; returns their exit codes, 2 for a `UserError`.

    Where one ends with anything but 0, the others are ended, as torchrun does.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    children = {}
    for rank in range(ranks):
        if not (child := os.fork()):
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            torch.set_num_threads(1)  # OpenMP's other threads aren't forked, but waited for
            os._exit(_code(function))
        children[child] = rank
    codes, limit = {}, time.monotonic() + PATIENCE
    while len(codes) < ranks:
        time.sleep(0.02)
        over = time.monotonic() > limit or any(codes.values())
        for child, rank in children.items():
            if rank in codes:
                continue
            if over:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if over else os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
    return [codes[rank] for rank in range(ranks)]


def _code(function):
    try:
        function()
    except SystemExit as error:
        return error.code or 0
    except UserError as error:
        print(f"error: {error}", flush=True)
        return 2
    except BaseException:  # noqa: BLE001 - a child must not go on as pytest
        traceback.print_exc()
        return 1
    return 0
