"""Runs Python command lines by fork from a process that has imported everything: see ``warm.py``.

Requests and answers are lines of JSON. A run is a process of its own in a session of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import sys
import threading
import traceback

from hosts import children_in, enter

import defsr  # before basicsr

# isort: split
import basicsr
import matplotlib.backends.backend_agg  # noqa: F401
import torch._dynamo  # noqa: F401  (by the first optimizer)
import torch.utils.tensorboard  # noqa: F401


def start(request: dict) -> int:
    """Fork a run and return its process id; the run itself ends here."""
    with children_in(request.get('host')):
        pid = os.fork()
    if pid:
        return pid
    code = run(request)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # what Python does beside that at an end takes half a second here


def poll(request: dict) -> int | None:
    """A run's exit code, -9 after SIGKILL; None while it runs."""
    pid, status = os.waitpid(request['pid'], os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def run(request: dict) -> int:
    """Be the process of ``python *request['command']``; its exit code."""
    os.setsid()
    if request.get('host'):
        enter(request['host'])
    files = (os.devnull, request['out'], request['err'])
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2)
    for descriptor, (file, flag) in enumerate(zip(files, flags, strict=True)):
        os.dup2(os.open(file, flag), descriptor)
    os.chdir(request['folder'])
    os.environ.clear()
    os.environ.update(request['env'])
    script, *arguments = request['command']
    try:
        points = observe(request) if 'observe' in request else None
        if script == '-m':
            sys.path[0], sys.argv = '', arguments
            sys.modules.pop(arguments[0], None)  # runpy warns of it
            runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)
        else:
            sys.path[0], sys.argv = os.path.dirname(script), request['command']
            runpy.run_path(script, run_name='__main__')
        if points:
            points.report()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def observe(request: dict):
    """Watch the run by a module that is for it, as ``faults/observed.py``."""
    path, work = request['observe']
    sys.path[0] = os.path.dirname(path)
    module = importlib.import_module(os.path.splitext(os.path.basename(path))[0])
    return module.observe(work, request['witness'], request['plan'])


def main() -> None:
    """Serve until told to stop, or until the input ends."""
    for module in pkgutil.walk_packages(defsr.__path__, 'defsr.'):
        importlib.import_module(module.name)
    assert basicsr.__version__  # which imports all of it
    gc.freeze()  # or each run would copy what the collector touches
    requests, answers = sys.stdin, sys.stdout
    answers.write('ready\n')
    answers.flush()
    for line in requests:
        request = json.loads(line)
        if request['do'] == 'stop':
            return
        answer = {'start': start, 'poll': poll}[request['do']](request)
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


if __name__ == '__main__':
    main()
