"""A page in the browser to make photographs four times as large, on this machine alone.

    defsr-web                     # then open http://127.0.0.1:7860

What is dropped on it goes nowhere else, and is deleted again. See docs/upscale.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import tempfile
from ipaddress import ip_address
from pathlib import Path

from defsr.utils.cli import let_cpu_help, run_cli, tell

# PyTorch and Gradio take seconds, which --help need not wait for.
HOST, PORT = '127.0.0.1', 7860
MISSING = "defsr-web needs Gradio: pip install 'defsr[web]'."
SETTINGS = {  # of Gradio, read when it is imported
    'GRADIO_ANALYTICS_ENABLED': 'False',
    'HF_HUB_DISABLE_TELEMETRY': '1',
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-web', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add(
        '--host', default=HOST, metavar='ADDRESS',
        help='where it listens (default: %(default)s, this machine alone); at another address\n'
        'whoever reaches it can use it',
    )  # fmt: skip
    add('--port', type=int, default=PORT, help='(default: %(default)s)')
    add('--device', default='auto', help='auto (default), cpu, cuda, cuda:N or mps')
    add('--weights', metavar='FILE', help='other weights for the network of options/upscale.yml')
    add('--options', type=Path, metavar='FILE', help='another such description')
    args = parser.parse_args()
    let_cpu_help(args.device)
    return args


def check_free(host: str, port: int) -> None:
    """OSError for an address that is not this machine's, or is taken; ValueError for no port."""
    if not 1 <= port <= 65535:
        raise ValueError(f'--port is {port}, but must be from 1 to 65535.')
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OSError(
            f'{host}:{port} cannot be listened at: {error}. Choose another --host or --port.'
        ) from None


def is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Args:
        args: as of ``parse_arguments``.

    Raises:
        ValueError: without Gradio, and as of ``Upscaler``.
        OSError: if it cannot listen there.
    """
    check_free(args.host, args.port)
    with tempfile.TemporaryDirectory(prefix='defsr-web-') as folder:
        os.environ |= SETTINGS | {'GRADIO_TEMP_DIR': folder}
        try:
            import gradio  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != 'gradio':
                raise
            raise ValueError(MISSING) from None
        from defsr.tools.web_job import Settings, upscalers
        from defsr.tools.web_page import serve

        build, usual = upscalers(args.weights, args.device, args.options), Settings()
        device = build(usual.quality, usual.rectify).device  # or its error, before any page
        if not is_local(args.host):
            tell(f'Whoever reaches {args.host} can use this page.')
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with serve(build, Path(folder), args.host, args.port) as address:
            tell(f'{address} on {device}; Ctrl-C ends it')
            try:
                signal.pause()
            except KeyboardInterrupt:
                tell('ended')


def web() -> None:
    """Parse the command line and serve."""
    run(parse_arguments())


def main() -> None:
    """Entry point of ``defsr-web``."""
    run_cli(web)


if __name__ == '__main__':
    main()
